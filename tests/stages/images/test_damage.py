"""Random damage: what plain Pillow refuses to decode is never stored, in no format and by no setting.

The one exception is damage that changes no pixel (metadata, an end marker): the stored image is that of an
undamaged file, with or without its orientation. Of a JPEG, which has no checksums, every scan line is there.
"""

import io
import random

import numpy as np
import pytest
from PIL import Image

from capfilt.stages.images.decode import FORMATS, DecodeConfig, StoredImage, decode_and_resize
from capfilt.stages.status import Failure
from tests.stages.images import handmade
from tests.stages.images.samples import encode, quarters

CASES = 1_000
LONG_CASES = 10_000
RESIZED = DecodeConfig(min_side=8, size=32, format="webp")
ORIGINAL = DecodeConfig(min_side=8, resize="original")
STATUSES = {"decode", "not_image", "too_small", "too_many_pixels", "aspect", "empty_body"}


def textured() -> Image.Image:
    """Quarters with a pattern, so that damage shows wherever it is."""
    pixels = np.asarray(quarters(48, 40)).astype(int)
    y, x = np.mgrid[:40, :48]
    return Image.fromarray((pixels // 2 + ((7 * x + 13 * y) % 64)[..., None]).astype(np.uint8))


def samples(format_: str) -> list[bytes]:
    image = textured()
    if format_ == "ICO":
        sizes: dict[str, object] = {"sizes": [(32, 32)]}
        return [encode(image, "ICO", **sizes), encode(image, "ICO", bitmap_format="bmp", **sizes)]
    variants: dict[str, list[dict[str, object]]] = {
        "JPEG": [{}, {"progressive": True}, {"exif": exif(6)}, {"restart_marker_blocks": 2}],
        "PNG": [{}, {"exif": exif(6)}, {"save_all": True, "append_images": [image.transpose(0)]}],
        "WEBP": [{}, {"lossless": True, "exif": exif(6)}],
        "TIFF": [{"compression": name} for name in (None, "tiff_lzw", "jpeg", "tiff_adobe_deflate")],
        "JPEG2000": [{}, {"no_jp2": True}],
    }
    files = [encode(image, format_, **options) for options in variants.get(format_, [{}])]
    if format_ == "PNG":
        files += [encode(image.quantize(16), "PNG"), encode(image.convert("L"), "PNG")]
    return files


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def damage(rng: random.Random, data: bytes) -> bytes:
    """One to four bytes changed, bits flipped, a piece removed, doubled or zeroed, or the end cut off."""
    changed = bytearray(data)
    kind = rng.randrange(6)
    at = rng.randrange(len(data))
    end = at + rng.randrange(1, 20)
    if kind <= 1:
        for _ in range(rng.randrange(1, 5)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 2:
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 3:
        del changed[at:end]
    elif kind == 4:
        changed[at:end] = bytes(len(changed[at:end])) if rng.random() < 0.5 else changed[at:end] * 2
    else:
        del changed[rng.randrange(1, len(data)) :]
    return bytes(changed)


def is_accepted_by_pillow(data: bytes) -> bool:
    """Whether Pillow decodes the whole file, asked for nothing else."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except Exception:  # Pillow's decoders raise almost anything on damaged bytes
        return False
    return True


def has_all_scan_lines(data: bytes) -> bool:
    """Whether Pillow decodes a JPEG without end marker to the same pixels, whatever follows its data."""
    completed = [data + filling * 64 + b"\xff\xd9" for filling in (b"", b"\x55", b"\xaa")]
    pixels = [np.asarray(Image.open(io.BytesIO(file))) for file in completed]
    return all(np.array_equal(pixels[0], other) for other in pixels[1:])


def store(data: bytes, config: DecodeConfig) -> StoredImage | None:
    try:
        return decode_and_resize(data, config)
    except Failure as failure:
        assert failure.status in STATUSES
        return None


def check_damaged_files(format_: str, cases: range) -> None:
    files = samples(format_)
    intact = {decode_and_resize(data, RESIZED).image for data in files}
    refused = 0
    for number in cases:
        data = damage(random.Random(f"{format_} {number}"), files[number % len(files)])
        if is_accepted_by_pillow(data):
            continue
        refused += 1
        stored = store(data, RESIZED)
        kept = store(data, ORIGINAL)
        if stored is not None and stored.image not in intact:
            # JPEG has no checksums: with its end marker, Pillow would accept this file too.
            assert format_ == "JPEG" and has_all_scan_lines(data), (format_, number)
        assert (kept is None) == (stored is None), (format_, number)
    assert refused > len(cases) // 20, refused


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("format_", FORMATS)
def test_damaged_files_are_never_stored(format_: str) -> None:
    check_damaged_files(format_, range(CASES))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("format_", FORMATS)
def test_10_000_damaged_files_are_never_stored(format_: str) -> None:
    check_damaged_files(format_, range(CASES, CASES + LONG_CASES))


@pytest.mark.parametrize("resize", ["shorter", "original"])
def test_a_png_with_three_changed_bytes_ends_as_decode(resize: str) -> None:
    """Pillow decodes a PNG when it is asked for EXIF; its error must not get lost."""
    data = encode(textured())
    config = DecodeConfig(min_side=8, resize=resize)  # type: ignore[arg-type]
    start, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    for number in range(200):
        rng = random.Random(number)
        changed = bytearray(data)
        for _ in range(3):
            changed[rng.randrange(start, end)] ^= rng.randrange(1, 256)
        with pytest.raises(Failure) as caught:
            decode_and_resize(bytes(changed), config)
        assert caught.value.status == "decode"


@pytest.mark.parametrize("resize", ["shorter", "original"])
def test_a_png_with_damaged_pixels_and_right_checksums_ends_as_decode(resize: str) -> None:
    """Also where there is no EXIF, so that Pillow decodes the image in search of it."""
    data = encode(textured())
    config = DecodeConfig(min_side=8, resize=resize)  # type: ignore[arg-type]
    start, end = data.index(b"IDAT") + 4, data.index(b"IEND") - 8
    refused = 0
    for number in range(200):
        rng = random.Random(number)
        body = bytearray(data[start:end])
        for _ in range(3):
            body[rng.randrange(len(body))] ^= rng.randrange(1, 256)
        changed = data[: start - 8] + handmade.chunk(b"IDAT", bytes(body)) + data[end + 4 :]
        if is_accepted_by_pillow(changed):
            continue
        refused += 1
        with pytest.raises(Failure) as caught:
            decode_and_resize(changed, config)
        assert caught.value.status == "decode"
    assert refused > 150, refused
