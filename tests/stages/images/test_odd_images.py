"""The table of damaged and odd images in docs/statuses.md, row by row."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capfilt.models.images import opening
from capfilt.models.images.decode import decode_image
from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.status import Failure
from tests.models.images.test_opening import icon, tiff_with_tile, with_scans, wrong_checksum
from tests.stages.images import handmade
from tests.stages.images.samples import encode, png_header
from tests.stages.images.test_orientation import XMP, jpeg

ROOT = Path(__file__).parents[3]
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8))
PNG = encode(NOISE)
JPEG = encode(NOISE, "JPEG")
PROGRESSIVE = encode(NOISE, "JPEG", progressive=True)
JPEG_2000 = encode(NOISE, "JPEG2000")
SIZE_AT = JPEG_2000.index(b"\xff\x4f\xff\x51") + 8


def with_chunk(chunk: bytes) -> bytes:
    return PNG[:33] + chunk + PNG[33:]


TEXT = handmade.chunk(b"zTXt", b"k\0\0" + zlib.compress(b"word " * 500_000))
BITMAP = struct.pack("<IiiHHIIiiII", 40, 9_000, 18_000, 1, 32, 0, 0, 0, 0, 0, 0)
SLOW = "image that takes more than 60 s of processor time"

FILES = {
    "PNG with damaged pixels": (PNG[:200] + b"\x7f\x80\x81" + PNG[203:], "decode", "checksum"),
    "PNG without its last pixels": (PNG[:-60], "decode", "truncated"),
    "PNG with 2.5 MB of text": (with_chunk(TEXT), "success", ""),
    "PNG with a wrong checksum of a text": (
        with_chunk(wrong_checksum(handmade.chunk(b"tEXt", b"k\0v"))), "success", ""),
    "PNG with an unregistered chunk and a wrong checksum": (
        with_chunk(wrong_checksum(handmade.chunk(b"vpAg", b"v"))), "not_image", ""),
    "palette PNG without a palette": (
        handmade.png([(0,), (1,), (2,), (3,)], color_type=3), "decode", "without a palette"),
    "JPEG without its end marker": (JPEG[:-2], "success", ""),
    "JPEG without its last 10 bytes": (JPEG[:-10], "decode", "truncated"),
    "progressive JPEG without its last scan": (
        PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")], "decode", "truncated"),
    "JPEG with 101 scans": (with_scans(101), "decode", "more than 100 scans"),
    "TIFF with a tile of 65,536 x 65,536": (tiff_with_tile(65_536, 65_536), "decode", "a tile of 65536"),
    "icon that contains a PNG of 30,000 x 5,000": (
        icon(png_header(30_000, 5_000)), "too_many_pixels", "30000 x 5000 pixels"),
    "icon that contains a bitmap of 9,000 x 9,000": (icon(BITMAP), "too_many_pixels", "9000 x 9000 pixels"),
    "JPEG 2000 with two sizes": (
        JPEG_2000[:SIZE_AT] + struct.pack(">II", 60_000, 60_000) + JPEG_2000[SIZE_AT + 8 :],
        "decode", "60000 x 60000"),
    SLOW: (PNG, "decode", "takes more than 0 s of processor time"),
    "orientation in EXIF": (jpeg(6), "success", ""),
    "orientation in XMP": (encode(NOISE, "WEBP", xmp=XMP), "success", ""),
    "HEIC": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(4000), "not_image", "(HEIC)"),
    "JPEG XL": (b"\xff\x0a" + bytes(4000), "not_image", "(JPEG XL)"),
    "PSD": (b"8BPS\0\1" + bytes(4000), "not_image", "(PSD)"),
    "PDF": (b"%PDF-1.7\n", "not_image", "(PDF)"),
    "MP4 video": (b"\0\0\0\x20ftypisom" + bytes(4000), "not_image", "(video)"),
    "gzip": (gzip.compress(JPEG), "not_image", "(gzip)"),
}  # fmt: skip


def is_read_by_pillow(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).load()
    except (OSError, ValueError, SyntaxError):
        return False
    return True


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("resize", ["shorter", "original"])
@pytest.mark.parametrize("name", FILES)
def test_odd_image(name: str, resize: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data, status, message = FILES[name]
    config = DecodeConfig(min_side=8, resize=resize)  # type: ignore[arg-type]
    if name == SLOW:
        monkeypatch.setattr(opening, "MAX_DECODE_SECONDS", 0.0)
    if status == "success":
        stored = decode_and_resize(data, config)
        if resize == "original":
            assert (stored.image == data) == is_read_by_pillow(data)
            assert np.array_equal(decode_image(stored.image), decode_image(data))
        assert is_read_by_pillow(stored.image)
        return
    with pytest.raises(Failure) as caught:
        decode_and_resize(data, config)
    assert caught.value.status == status
    assert message in caught.value.message and "\n" not in caught.value.message


def test_the_documented_table() -> None:
    text = (ROOT / "docs/statuses.md").read_text(encoding="utf-8")
    section = text.split("\n## Damaged and odd images")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")][2:]
    assert [(row[0], row[1].strip("` |")) for row in rows] == [
        (name, status) for name, (_, status, _) in FILES.items()
    ]


def test_originals_that_are_completed() -> None:
    config = DecodeConfig(min_side=8, resize="original")
    assert decode_and_resize(JPEG[:-2], config).image == JPEG
    changed = [name for name, (data, status, _) in FILES.items() if status == "success" and name != SLOW
               and decode_and_resize(data, config).image != data]  # fmt: skip
    assert changed == [
        "PNG with 2.5 MB of text",
        "PNG with a wrong checksum of a text",
        "JPEG without its end marker",
    ]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(99), " (JPEG XL)"),
        (b"\0\0\0\x1cftypmif1" + bytes(99), " (HEIC)"),
        (b"\0\0\0\x1cftypheix" + bytes(99), " (HEIC)"),
        (b"<?xml version='1.0'?>\n<!-- x -->\n<svg/>", " (SVG)"),
        (b"<?xml version='1.0'?><Error/>", " (XML)"),
        (b"\n <!DOCTYPE HTML>", " (HTML)"),
        (b"%!PS-Adobe-3.0", " (PostScript)"),
        (b"text about <svg", ""),
    ],
)
def test_the_message_names_what_was_downloaded(data: bytes, kind: str) -> None:
    with pytest.raises(Failure) as caught:
        decode_and_resize(data, DecodeConfig())
    assert caught.value.message == f"{len(data)} bytes in no supported image format{kind}"
