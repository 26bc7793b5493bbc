"""Pictures against pictures made by hand: flat quarters whose colours are known, never our own decoder's output."""

import io
import random
import struct
import zlib
from collections import Counter

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn

from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from capfilt.stages.images.phash import perceptual_hash
from capfilt.stages.status import STATUSES, Failure
from tests.stages.images import handmade

RED, GREEN, BLUE, WHITE = (220, 30, 40), (30, 160, 60), (40, 60, 200), (255, 255, 255)
COLOURS = [RED, GREEN, BLUE, WHITE]
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
        decode_and_resize(data, config)
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
    made = decode_and_resize(encoded(quarters(mode=mode), form, **options), SMALL)
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


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", EXIF)
def test_exif_orientation_is_applied_and_dropped(orientation: int, order: str) -> None:
    secrets = handmade.segment(0xFE, b"hello") + handmade.segment(0xE2, b"author")
    data = handmade.jpeg(COLOURS, width=64, height=48, head=handmade.exif(orientation, order) + secrets)
    made = decode_and_resize(data, SMALL)
    assert_near(corners(made.image), EXIF[orientation])
    sides = (64, 48) if orientation < 5 else (48, 64)
    assert (made.width, made.height) == sides == (made.original_width, made.original_height)
    for secret in (b"Exif", b"author", b"hello"):
        assert secret in data and secret not in made.image


INK = [(*(255 - v for v in colour), 0) for colour in COLOURS]
HALF = [tuple(round((v * 128 + 255 * 127) / 255) for v in colour) for colour in COLOURS]
GREY = [(v,) * 3 for v in (117, 0, 255, 1)]
PALETTE = handmade.chunk(b"PLTE", bytes(v for colour in COLOURS for v in colour))
SECOND_IS_CLEAR = handmade.chunk(b"tRNS", bytes([255, 0]))
GIF_PALETTE = [*COLOURS, *[(1, 2, 3)] * 4]
# sRGB's primaries under D50 (ICC), red and green exchanged: a viewer shows what is stored red as green.
EXCHANGED = handmade.icc_profile((0.3851, 0.7169, 0.0971), (0.4361, 0.2225, 0.0139), (0.1431, 0.0606, 0.7141))
PROFILE = handmade.segment(0xE2, b"ICC_PROFILE\0\1\1" + EXCHANGED)

BY_HAND = {
    "RGB JPEG": (handmade.jpeg(COLOURS), COLOURS),
    "CMYK JPEG": (handmade.jpeg(INK), COLOURS),
    "CMYK TIFF": (handmade.tiff_cmyk(INK), COLOURS),
    "black ink": (handmade.tiff_cmyk([(0, 0, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 138)]),
                  [WHITE, (0, 0, 0), (0, 255, 255), (117, 117, 117)]),
    "RGB PNG": (handmade.png(COLOURS), COLOURS),
    "16-bit RGB PNG": (handmade.png([tuple(257 * v for v in c) for c in COLOURS], depth=16), COLOURS),
    "16-bit grey PNG": (handmade.png([(30000,), (0,), (65535,), (257,)], depth=16, kind=0), GREY),
    "half clear PNG": (handmade.png([(*c, 128) for c in COLOURS], kind=6), HALF),
    "16-bit half clear PNG": (
        handmade.png([(*(257 * v for v in c), 32896) for c in COLOURS], depth=16, kind=6), HALF),
    "grey with alpha": (handmade.png([(117, 255), (9, 0), (255, 255), (1, 255)], kind=4),
                        [GREY[0], WHITE, WHITE, GREY[3]]),
    "palette PNG": (handmade.png([(0,), (1,), (2,), (3,)], kind=3, extra=PALETTE), COLOURS),
    "palette with a clear entry": (
        handmade.png([(0,), (1,), (2,), (3,)], kind=3, extra=PALETTE + SECOND_IS_CLEAR),
        [RED, WHITE, BLUE, WHITE]),
    "GIF": (handmade.gif([[0, 1, 2, 3]], GIF_PALETTE), COLOURS),
    "animated GIF": (handmade.gif([[0, 1, 2, 3], [3, 3, 3, 3], [1, 1, 1, 1]], GIF_PALETTE), COLOURS),
    "clear GIF": (handmade.gif([[0, 1, 2, 3]], GIF_PALETTE, transparent=1), [RED, WHITE, BLUE, WHITE]),
    "colour profile": (handmade.jpeg([(255, 0, 0), (0, 255, 0), (0, 0, 255), WHITE], head=PROFILE),
                       [(0, 255, 0), (255, 0, 0), (0, 0, 255), WHITE]),
    "profile of another kind of picture": (handmade.jpeg(INK, head=PROFILE), COLOURS),
    "damaged profile": (handmade.jpeg(COLOURS, head=PROFILE.replace(b"acsp", b"spca")), COLOURS),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_pictures_made_by_hand(name: str) -> None:
    data, wanted = BY_HAND[name]
    made = decode_and_resize(data, SMALL)
    assert_near(corners(made.image), wanted)
    assert b"ICC_PROFILE" not in made.image and made.image.startswith(b"\xff\xd8\xff")


def test_alpha_lies_on_the_background() -> None:
    half = [(*colour, 128) for colour in COLOURS]
    made = decode_and_resize(handmade.png(half, kind=6), DecodeConfig(min_side=8, background="#0000ff"))
    blue = [
        tuple(round((v * 128 + p * 127) / 255) for v, p in zip(c, (0, 0, 255), strict=True)) for c in COLOURS
    ]
    assert_near(corners(made.image), blue)
    with pytest.raises(ValueError, match="#rrggbb"):
        DecodeConfig(background="white")


def test_stored_as_webp() -> None:
    data = handmade.jpeg(COLOURS, head=handmade.exif(6, "<") + PROFILE)
    made = decode_and_resize(data, DecodeConfig(min_side=8, format="webp", quality=95))
    assert made.image[:4] == b"RIFF" and made.image[8:12] == b"WEBP"
    assert not any(part in made.image for part in (b"EXIF", b"ICCP", b"XMP "))
    pixels = cv2.imdecode(np.frombuffer(made.image, np.uint8), cv2.IMREAD_COLOR)  # another decoder
    assert pixels.shape == (32, 32, 3)


def test_sixteen_bits_of_another_encoder() -> None:
    wide = np.full((32, 32, 3), 30000, np.uint16)
    made = decode_and_resize(cv2.imencode(".png", wide)[1].tobytes(), SMALL)
    assert_near(corners(made.image), [(117, 117, 117)] * 4, tolerance=2)


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (RED, GREEN)]
    for form in ("WEBP", "PNG", "AVIF"):
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
        assert_near(corners(decode_and_resize(data, SMALL).image), [RED] * 4, tolerance=14)


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
    made = decode_and_resize(data, DecodeConfig(min_side=8, resize=resize, size=size))  # type: ignore[arg-type]
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
    made = decode_and_resize(
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
    made = decode_and_resize(data, DecodeConfig(min_side=8, size=100))
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
    assert decode_and_resize(encoded(Image.new("RGB", (256, 400))), DecodeConfig()).height == 400


def test_bytes_are_a_function_of_bytes() -> None:
    data = encoded(quarters(300, 500))
    assert decode_and_resize(data, DecodeConfig()) == decode_and_resize(data, DecodeConfig())


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damaged_pictures_end_in_statuses() -> None:
    """10,000 mutated, cut, spliced and random byte strings: a picture or a listed status, and no other exception."""
    source = random.Random(5)
    small = quarters(20, 16)
    originals = [
        encoded(small, form)
        for form in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "AVIF", "ICO", "PPM", "JPEG2000")
    ]
    originals += [encoded(small, "JPEG", progressive=True), *(data for data, _ in BY_HAND.values())]
    statuses = Counter[str]()
    for number in range(10_000):
        try:
            decode_and_resize(mutated(source, originals, number), SMALL)
        except Failure as caught:
            statuses[caught.status] += 1
        else:
            statuses["success"] += 1
    assert set(statuses) <= set(STATUSES)
    assert min(statuses[name] for name in ("success", "decode", "not_image")) > 500, statuses


def mutated(source: random.Random, originals: list[bytes], number: int) -> bytes:
    """Random bytes behind a known beginning or none; else a picture with bytes changed, cut off or from another."""
    data = bytearray(originals[number % len(originals)])
    if number % 4 == 0:
        return bytes(data[: source.choice((0, 0, 4, 12, 30))]) + source.randbytes(source.randrange(200))
    for _ in range(source.randrange(1, 12)):
        data[source.randrange(len(data))] = source.randrange(256)
    kind = source.random()
    if kind < 0.25:
        return bytes(data[: source.randrange(1, len(data) + 1)])
    if kind < 0.4:
        other, at = source.choice(originals), source.randrange(len(data))
        return bytes(data[:at]) + other[source.randrange(len(other)) :]
    return bytes(data)


def test_hash_against_the_definition() -> None:
    picture = quarters(320, 240)
    grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
    low = dctn(grey, type=2)[:8, :8].flatten()
    bits = int("".join("1" if value > np.median(low) else "0" for value in low), 2)
    # scipy doubles every dimension; the comparison with the median does not see it.
    assert bin(int(perceptual_hash(np.asarray(picture)), 16) ^ bits).count("1") <= 1


def test_hash_of_a_flat_picture_is_the_constant_alone() -> None:
    assert perceptual_hash(np.asarray(Image.new("RGB", (90, 70), RED))) == "8000000000000000"


def test_hash_survives_size_and_quality_and_tells_pictures_apart() -> None:
    def distance(a: Image.Image, b: Image.Image) -> int:
        return bin(int(perceptual_hash(np.asarray(a)), 16) ^ int(perceptual_hash(np.asarray(b)), 16)).count(
            "1"
        )

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
    made = decode_and_resize(encoded(Image.fromarray(squares)), DecodeConfig(min_side=8, size=96, quality=95))
    with Image.open(io.BytesIO(made.image)) as found:
        assert np.abs(np.asarray(found, int) - 127).max() <= 18
