"""Files that are small but take long, and metadata that must not make an image unreadable."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from capfilt.models.images import jpeg_scans, opening, png
from capfilt.models.images.decode import decode_image
from capfilt.models.images.opening import open_image
from tests.stages.images import handmade
from tests.stages.images.samples import COLORS, encode, png_header, quarters

PLAIN = handmade.png(COLORS)
EXIF_6 = handmade.exif(6, "<")[4:]
BIG = zlib.compress(b"word " * 500_000)


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data))


def wrong_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


# ---- PNG

METADATA = {
    "2.5 MB of XMP": handmade.chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
    "2.5 MB of text": handmade.chunk(b"zTXt", b"workflow\0\0" + BIG),
    "2 MB of plain text": handmade.chunk(b"tEXt", b"workflow\0" + b"x" * 2_000_000),
    "unknown compression of a text": handmade.chunk(b"zTXt", b"workflow\0\7xx"),
    "damaged profile": handmade.chunk(b"iCCP", b"name\0\0no zlib stream"),
    "profile without a name": handmade.chunk(b"iCCP", b""),
    "profile of 20 MB": handmade.chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(20 << 20))),
    "text with a wrong checksum": wrong_checksum(handmade.chunk(b"tEXt", b"k\0v")),
    "profile with a wrong checksum": wrong_checksum(handmade.chunk(b"iCCP", b"name\0\0")),
    "EXIF with a wrong checksum": wrong_checksum(handmade.chunk(b"eXIf", b"II*\0" + bytes(20))),
    "short pHYs, sRGB, acTL and fcTL": b"".join(
        handmade.chunk(kind, b"") for kind in (b"pHYs", b"sRGB", b"acTL", b"fcTL")
    ),
    "unregistered chunk": handmade.chunk(b"vpAg", bytes(9)),
    "orientation in a text named exif": handmade.chunk(
        b"tEXt", b"exif\0" + EXIF_6
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
def test_metadata_of_a_png_is_never_fatal(name: str) -> None:
    assert np.array_equal(pixels(handmade.png(COLORS, extra=METADATA[name])), pixels(PLAIN))


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT"])
def test_a_wrong_checksum_of_pixels_is_an_error(kind: bytes) -> None:
    at = PLAIN.index(kind)
    end = at + 8 + int.from_bytes(PLAIN[at - 4 : at], "big")
    with pytest.raises(ValueError, match=f"wrong checksum in a {kind.decode()} chunk"):
        decode_image(wrong_checksum(PLAIN[:end]) + PLAIN[end:])


def test_a_palette_image_needs_an_intact_palette() -> None:
    palette = handmade.chunk(b"PLTE", bytes(v for color in COLORS for v in color))
    indexes = [(0,), (1,), (2,), (3,)]
    assert np.array_equal(pixels(handmade.png(indexes, color_type=3, extra=palette)), pixels(PLAIN))
    for damaged in (b"", wrong_checksum(palette), handmade.chunk(b"tRNS", b"\0")):
        with pytest.raises(ValueError, match=r"palette|PLTE"):
            decode_image(handmade.png(indexes, color_type=3, extra=damaged))


def test_a_profile_of_more_than_1_mb_is_used() -> None:
    """Pillow's own limit is 1 MiB."""
    swapped = handmade.icc_profile(
        (0.3851, 0.7169, 0.0971), (0.4361, 0.2225, 0.0139), (0.1431, 0.0606, 0.7141)
    )
    chunk = handmade.chunk(b"iCCP", b"name\0\0" + zlib.compress(swapped + bytes(2 << 20)))
    out = pixels(handmade.png([(255, 0, 0)] * 4, extra=chunk))
    assert abs(out[0, 0].astype(int) - (0, 255, 0)).max() <= 8


def test_profiles_up_to_the_limit() -> None:
    for size, kept in ((png.MAX_PROFILE_BYTES, True), (png.MAX_PROFILE_BYTES + 1, False)):
        chunk = handmade.chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(size), 1))
        _, profile = png.keep_first_frame(handmade.png(COLORS, extra=chunk))
        assert (profile is not None) == kept


# ---- JPEG


def test_a_jpeg_that_lacks_only_its_end_marker_is_complete() -> None:
    image = quarters(200, 120)
    for mode in ("RGB", "L", "CMYK"):
        for options in (
            {},
            {"progressive": True},
            {"restart_marker_rows": 1},
            {"exif": handmade.exif(6, "<")[4:]},
        ):
            data = encode(image.convert(mode), "JPEG", **options)  # type: ignore[arg-type]
            assert np.array_equal(pixels(data[:-2]), pixels(data)), (mode, options)
            assert np.array_equal(pixels(data[:-1]), pixels(data)), (mode, options)


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
def test_a_jpeg_that_lacks_anything_else_is_an_error(options: dict[str, object]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 96, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), "JPEG", **options)
    scans = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    ends = [10, 30, len(data) // 2, *(len(data) - at for at in scans)]  # also between two scans
    for cut in ends:
        with pytest.raises(ValueError, match="truncated"):
            decode_image(data[:-cut])


def with_scans(count: int, *, end: bytes = b"\xff\xd9") -> bytes:
    """A progressive JPEG with `count` scans of the first AC coefficients."""
    data = encode(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    starts = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xda"]
    first = data[starts[0] : starts[1]].split(b"\xff\xc4")[0]
    return data[: starts[0]] + first * (count - len(starts) + 1) + data[starts[1] : -2] + end


@pytest.mark.parametrize("end", [b"\xff\xd9", b"", b"\xff\xd9 trailing"])
def test_scans_of_a_jpeg_are_bounded(end: bytes) -> None:
    for count in (jpeg_scans.MAX_SCANS, jpeg_scans.MAX_SCANS + 1, 5_000):
        data = with_scans(count, end=end)
        assert data.count(b"\xff\xda") == count
        if count > jpeg_scans.MAX_SCANS:
            with pytest.raises(OSError, match="more than 100 scans"):
                open_image(data)
        else:
            open_image(data)


def test_headers_that_are_made_to_take_long() -> None:
    """None of these is quadratic in its length."""
    head = b"\xff\xd8\xff\xe0\0\2"
    frames = handmade.segment(0xC2, b"\x08\0\x10\0\x10\xff" + bytes(range(255)) * 3) * 2_000
    for body in (b"\xff" * 1_000_000 + b"\0", frames, b"\xff\xda\0\0" * 90):
        assert jpeg_scans.check_and_complete(head + body, 1_000_000) == head + body


def test_scan_markers_in_metadata_do_not_count() -> None:
    data = encode(quarters(), "JPEG")
    comment = handmade.segment(0xFE, b"\xff\xda" * 500)
    assert np.array_equal(pixels(data[:2] + comment + data[2:]), pixels(data))


# ---- sizes that a codec allocates


def tiff_with_tile(width: int, height: int) -> bytes:
    """A TIFF of 64 x 64 pixels, compressed in one tile of the given size."""
    body = zlib.compress(bytes(64 * 64))
    tags = [  # tag, type (3 short, 4 long), count, value
        (256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, width), (323, 4, 1, height), (324, 4, 1, 134), (325, 4, 1, len(body)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + body


@pytest.mark.parametrize(("width", "height"), [(2048, 2064), (65_536, 80), (65_536, 65_536)])
def test_a_tiff_tile_much_larger_than_its_image_is_refused(width: int, height: int) -> None:
    with pytest.raises(OSError, match=f"a tile of {width} x {height} pixels in an image of 64 x 64"):
        open_image(tiff_with_tile(width, height))


def test_a_tiff_tile_up_to_the_limit_is_opened() -> None:
    assert open_image(tiff_with_tile(2048, 2048)).size == (64, 64)


def icon(content: bytes, side: int = 16) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, side, side, 0, 0, 1, 32, len(content), 22) + content


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_an_icon_has_the_size_of_its_content() -> None:
    assert open_image(icon(encode(quarters(300, 200)))).size == (300, 200)
    assert open_image(icon(png_header(30_000, 5_000))).size == (30_000, 5_000)  # nothing is decoded
    bitmap = struct.pack("<IiiHHIIiiII", 40, 8_000, 16_000, 1, 32, 0, 0, 0, 0, 0, 0)
    with pytest.raises(Image.DecompressionBombError, match="an image of 8000 x 8000 pixels"):
        open_image(icon(bitmap), max_pixels=63_999_999)


def test_a_jpeg_2000_has_one_size() -> None:
    data = encode(quarters(64, 48), "JPEG2000")
    at = data.index(b"\xff\x4f\xff\x51")
    huge = data[: at + 8] + struct.pack(">II", 60_000, 60_000) + data[at + 16 :]
    assert open_image(data).size == (64, 48)
    with pytest.raises(OSError, match="60000 x 60000 pixels"):
        open_image(huge)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "GIF", "BMP", "PPM", "JPEG2000"])
def test_decoding_stops_at_the_limit_of_time(format_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)
    image = open_image(encode(Image.fromarray(noise), format_))
    assert isinstance(image.fp, io.BytesIO)
    monkeypatch.setattr(opening.time, "thread_time", lambda: image.fp.deadline + 1)
    with pytest.raises((OSError, SystemError)) as caught:  # JPEG 2000: reading fails inside the decoder
        image.load()
    assert "decoding takes more than 60 s of processor time" in str(caught.value.__cause__ or caught.value)
