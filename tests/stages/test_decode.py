"""Pictures against pictures made by hand: flat quarters whose colours are known, never our own decoder's output."""

import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from stages.decode import DecodeConfig, decode_picture
from stages.phash import perceptual_hash
from stages.status import STATUSES, Failure

RED, GREEN, BLUE, WHITE = (220, 30, 40), (30, 160, 60), (40, 60, 200), (255, 255, 255)
SMALL = DecodeConfig(min_side=8)


def quarters(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    """Red | green over blue | white."""
    picture = Image.new("RGB", (width, height))
    for column, row, colour in ((0, 0, RED), (1, 0, GREEN), (0, 1, BLUE), (1, 1, WHITE)):
        box = (column * width // 2, row * height // 2, (column + 1) * width // 2, (row + 1) * height // 2)
        picture.paste(colour, box)
    return picture.quantize(8) if mode == "P" else picture.convert(mode)


def encoded(picture: Image.Image, form: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    picture.save(sink, form, **options)
    return sink.getvalue()


def corners(data: bytes) -> list[tuple[int, ...]]:
    """Colours in the middle of the four quarters, row by row."""
    with Image.open(io.BytesIO(data)) as picture:
        rgb = picture.convert("RGB")
    w, h = rgb.size
    return [rgb.getpixel((x, y)) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]


def assert_near(found: list[tuple[int, ...]], wanted: list[tuple[int, ...]], tolerance: int = 8) -> None:
    assert np.abs(np.array(found, int) - np.array(wanted, int)).max() <= tolerance, (found, wanted)


def png_header(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def failure(data: bytes, config: DecodeConfig = SMALL) -> str:
    with pytest.raises(Failure) as caught:
        decode_picture(data, config)
    assert caught.value.message and "\n" not in caught.value.message
    return caught.value.status


@pytest.mark.parametrize(
    ("form", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95, "subsampling": 0}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("GIF", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("BMP", "RGB", {}),
        ("TIFF", "RGB", {}),
        ("AVIF", "RGB", {"quality": 95}),
    ],
)
def test_every_form_shows_the_same_picture(form: str, mode: str, options: dict[str, object]) -> None:
    made = decode_picture(encoded(quarters(mode=mode), form, **options), SMALL)
    assert_near(corners(made.image), [RED, GREEN, BLUE, WHITE], tolerance=14)
    assert (made.width, made.height, made.original_width, made.original_height) == (64, 48, 64, 48)
    assert made.image.startswith(b"\xff\xd8\xff")


# What a viewer sees of red|green over blue|white for each EXIF orientation (TIFF 6.0, tag 274).
EXIF = {
    1: [RED, GREEN, BLUE, WHITE],
    2: [GREEN, RED, WHITE, BLUE],
    3: [WHITE, BLUE, GREEN, RED],
    4: [BLUE, WHITE, RED, GREEN],
    5: [RED, BLUE, GREEN, WHITE],
    6: [BLUE, RED, WHITE, GREEN],
    7: [WHITE, GREEN, BLUE, RED],
    8: [GREEN, WHITE, RED, BLUE],
}


@pytest.mark.parametrize("orientation", EXIF)
def test_exif_orientation_is_applied_and_dropped(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    exif[0x013B] = "the author"
    made = decode_picture(encoded(quarters(), "JPEG", exif=exif, quality=95, comment=b"hello"), SMALL)
    assert_near(corners(made.image), EXIF[orientation], tolerance=14)
    sides = (64, 48) if orientation < 5 else (48, 64)
    assert (made.width, made.height) == sides == (made.original_width, made.original_height)
    for secret in (b"Exif", b"author", b"hello"):
        assert secret not in made.image


def test_alpha_lies_on_white() -> None:
    picture = quarters(mode="RGBA")
    picture.putalpha(Image.new("L", picture.size, 128))
    halved = [tuple(round((c + 255) / 2) for c in colour) for colour in (RED, GREEN, BLUE, WHITE)]
    assert_near(corners(decode_picture(encoded(picture), SMALL).image), halved)


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    grey = Image.fromarray(np.full((32, 32), 30000, np.uint16))
    made = decode_picture(encoded(grey), SMALL)
    assert_near(corners(made.image), [(117, 117, 117)] * 4, tolerance=2)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN)]
    for form in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert_near(corners(decode_picture(data, SMALL).image), [RED] * 4, tolerance=14)


@pytest.mark.parametrize(
    ("resize", "size", "wanted"),
    [
        ("shorter", 100, (200, 100)),
        ("longer", 100, (100, 50)),
        ("shorter", 400, (400, 200)),
        ("original", 50, (400, 200)),
    ],
)
def test_sizes(resize: str, size: int, wanted: tuple[int, int]) -> None:
    data = encoded(quarters(400, 200))
    made = decode_picture(data, DecodeConfig(min_side=8, resize=resize, size=size))  # type: ignore[arg-type]
    assert (made.width, made.height) == wanted
    assert (made.original_width, made.original_height) == (400, 200)
    with Image.open(io.BytesIO(made.image)) as picture:
        assert picture.size == wanted
    assert (made.image == data) == (resize == "original")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    ("sides", "size", "stored"),
    [((800, 600), 192, (256, 192)), ((511, 767), 255, (255, 383)), ((1025, 769), 96, (128, 96))],
)
def test_a_jpeg_decoded_at_a_part_of_its_size_shows_what_the_whole_shows(
    mode: str, sides: tuple[int, int], size: int, stored: tuple[int, int]
) -> None:
    """Against all pixels averaged; a shift by half a stored pixel would make the difference 17 and more."""
    x, y = np.meshgrid(np.linspace(0, 3, sides[0]), np.linspace(0, 4, sides[1]))
    waves = [128 + 100 * np.sin(k * x) * np.cos(y + k) for k in (1, 2, 3)]
    picture = Image.fromarray(np.stack(waves, -1).astype(np.uint8)).convert(mode)
    made = decode_picture(
        encoded(picture, "JPEG", quality=95), DecodeConfig(min_side=8, size=size, quality=95)
    )
    assert (made.width, made.height) == stored and (made.original_width, made.original_height) == sides
    with Image.open(io.BytesIO(made.image)) as found:
        difference = np.asarray(found, float) - np.asarray(
            picture.convert("RGB").resize(stored, Image.Resampling.BOX), float
        )
    assert np.square(difference).mean() < 6, np.square(difference).mean()


def test_a_turned_jpeg_decoded_at_a_part_of_its_size() -> None:
    exif = Image.Exif()
    exif[274] = 6
    data = encoded(quarters(1601, 801), "JPEG", exif=exif, quality=95)
    made = decode_picture(data, DecodeConfig(min_side=8, size=100))
    assert_near(corners(made.image), EXIF[6], tolerance=14)
    assert (made.width, made.height, made.original_width, made.original_height) == (100, 200, 801, 1601)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", "empty_body"),
        (b"<!DOCTYPE html><p>gone", "not_image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_image"),
        (encoded(quarters(), "JPEG")[:400], "decode"),
        (encoded(quarters(), "PNG")[:60], "decode"),
        (png_header(50_000, 50_000), "too_many_pixels"),
        (png_header(9_000, 9_000), "too_many_pixels"),
        (png_header(64, 64), "decode"),
        (encoded(Image.new("RGB", (7, 70))), "too_small"),
        (encoded(Image.new("RGB", (8, 81))), "aspect"),
    ],
)
def test_refused(data: bytes, status: str) -> None:
    assert failure(data) == status


def test_the_paper_takes_web_images_from_256_pixels() -> None:
    assert failure(encoded(Image.new("RGB", (255, 400))), DecodeConfig()) == "too_small"
    assert decode_picture(encoded(Image.new("RGB", (256, 400))), DecodeConfig()).height == 400


def test_bytes_are_a_function_of_bytes() -> None:
    data = encoded(quarters(300, 500))
    assert decode_picture(data, DecodeConfig()) == decode_picture(data, DecodeConfig())


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_pictures_end_in_statuses() -> None:
    """Mutated, cut and random bytes: a picture or a listed status, and no other exception."""
    source = random.Random(5)
    originals = [
        encoded(quarters(), form) for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "ICO")
    ]
    statuses = set()
    for _ in range(1200):
        data = bytearray(source.choice(originals))
        for _ in range(source.randrange(1, 12)):
            data[source.randrange(len(data))] = source.randrange(256)
        data = data[: source.randrange(1, len(data) + 1)] if source.random() < 0.3 else data
        try:
            decode_picture(bytes(data), SMALL)
        except Failure as caught:
            statuses.add(caught.status)
    assert statuses <= set(STATUSES) and "decode" in statuses


def test_hash_against_the_definition() -> None:
    picture = quarters(320, 240)
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = dctn(grey, type=2)[:8, :8].flatten()
    bits = int("".join("1" if value > np.median(low) else "0" for value in low), 2)
    # scipy doubles every dimension; the comparison with the median does not see it.
    assert bin(int(perceptual_hash(picture), 16) ^ bits).count("1") <= 1


def test_hash_of_a_flat_picture_is_the_constant_alone() -> None:
    assert perceptual_hash(Image.new("RGB", (90, 70), RED)) == "8000000000000000"


def test_hash_survives_size_and_quality_and_tells_pictures_apart() -> None:
    def distance(a: Image.Image, b: Image.Image) -> int:
        return bin(int(perceptual_hash(a), 16) ^ int(perceptual_hash(b), 16)).count("1")

    rng = np.random.default_rng(0)
    blobs = [
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
            (320, 240), Image.Resampling.BICUBIC
        )
        for _ in range(6)
    ]
    for blob in blobs:
        worn = Image.open(io.BytesIO(encoded(blob.resize((100, 75)), "JPEG", quality=40)))
        assert distance(blob, worn) <= 6
    assert min(distance(a, b) for a in blobs for b in blobs if a is not b) >= 16


@pytest.mark.parametrize("side", [182, 288, 960])  # 1.9, 3 and 10 times the stored side
def test_fine_patterns_turn_grey_and_not_into_coarse_ones(side: int) -> None:
    """The most a filter leaves is an odd square's surplus: a ninth of 255 around the mean."""
    squares = (np.indices((side, side)).sum(0) % 2 * 255).astype(np.uint8)
    made = decode_picture(encoded(Image.fromarray(squares)), DecodeConfig(min_side=8, size=96, quality=95))
    with Image.open(io.BytesIO(made.image)) as found:
        assert np.abs(np.asarray(found, int) - 127).max() <= 18
