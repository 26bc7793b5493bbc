"""Decoding of images made by hand, whose expected pixels are known."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from capfilt.models.images.decode import decode_image, is_plain, orientation
from capfilt.models.images.pixels import MEAN, STD, normalize, to_pixels
from tests.stages.images import handmade

RED, GREEN, BLUE, WHITE, BLACK = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0))


def encode(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def corners() -> Image.Image:
    """24 x 16 pixels, four quarters: red top left, green top right, blue bottom left, white bottom right."""
    quarters = np.zeros((16, 24, 3), dtype=np.uint8)
    quarters[:8, :12], quarters[:8, 12:], quarters[8:, :12], quarters[8:, 12:] = (RED, GREEN, BLUE, WHITE)
    return Image.fromarray(quarters)


def pixels(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


# The stored pixels that display as `corners()` with each orientation. By TIFF 6.0, tag 274, row 0 and column
# 0 of the stored image are displayed at top/left, top/right, bottom/right, bottom/left, left/top, right/top,
# right/bottom, left/bottom.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a[:, ::-1].transpose(1, 0, 2),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a[::-1].transpose(1, 0, 2),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_decode_exif_orientation_is_undone(orientation, format):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(corners()))))
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    out = pixels(decode_image(encode(stored, format, exif=exif, **options)))
    assert out.shape == (16, 24, 3)
    assert np.abs(out - pixels(corners())).max() <= (0 if format != "JPEG" else 60)
    assert np.abs(out - pixels(corners())).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 6553])
def test_decode_ignores_an_unknown_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert (pixels(decode_image(encode(corners(), "PNG", exif=exif))) == pixels(corners())).all()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about the damage
def test_decode_ignores_damaged_exif():
    data = encode(corners(), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff\x12\x01")
    assert (pixels(decode_image(data)) == pixels(corners())).all()


def test_decode_puts_alpha_on_white():
    rgba = np.zeros((2, 2, 4), dtype=np.uint8)
    rgba[0, 0], rgba[0, 1], rgba[1, 0], rgba[1, 1] = ((*RED, 255), (*RED, 0), (*BLACK, 128), (*BLACK, 0))
    out = pixels(decode_image(encode(Image.fromarray(rgba), "PNG")))
    assert out[0, 0].tolist() == list(RED)
    assert out[0, 1].tolist() == out[1, 1].tolist() == list(WHITE)
    assert abs(out[1, 0] - 127).max() <= 1  # half-transparent black over white


def test_decode_puts_gray_with_alpha_on_white():
    la = Image.new("LA", (2, 1), (0, 0))
    la.putpixel((1, 0), (100, 255))
    assert pixels(decode_image(encode(la, "PNG")))[0].tolist() == [[255] * 3, [100] * 3]


def test_decode_palette_and_its_transparent_color():
    palette = Image.new("P", (3, 1))
    palette.putpalette([*RED, *GREEN, *BLUE])
    for x in range(3):
        palette.putpixel((x, 0), x)
    assert pixels(decode_image(encode(palette, "PNG")))[0].tolist() == [list(RED), list(GREEN), list(BLUE)]
    for format in ("PNG", "GIF"):
        out = pixels(decode_image(encode(palette, format, transparency=1)))
        assert out[0].tolist() == [list(RED), list(WHITE), list(BLUE)]


def test_decode_rgb_and_gray_with_a_transparent_color():
    rgb = Image.new("RGB", (2, 1), RED)
    rgb.putpixel((1, 0), BLACK)
    assert pixels(decode_image(encode(rgb, "PNG", transparency=BLACK)))[0].tolist() == [
        list(RED),
        list(WHITE),
    ]
    gray = Image.new("L", (2, 1), 10)
    gray.putpixel((1, 0), 20)
    assert pixels(decode_image(encode(gray, "PNG", transparency=20)))[0].tolist() == [[10] * 3, [255] * 3]


def test_decode_cmyk_jpeg_has_the_right_colors():
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))  # no cyan, full magenta and yellow: red
    cmyk.paste((255, 255, 0, 0), (16, 0, 32, 32))  # cyan and magenta: blue
    out = pixels(decode_image(encode(cmyk, "JPEG", quality=95)))
    assert abs(out[16, 4] - RED).max() < 12
    assert abs(out[16, 28] - BLUE).max() < 12


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_decode_16_bit_gray_is_scaled_not_clipped(format):
    ramp = np.array([[0, 257, 32768, 65278, 65535]], dtype=np.uint16)
    out = pixels(decode_image(encode(Image.fromarray(ramp), format)))
    assert out[0, :, 0].tolist() == [0, 1, 128, 254, 255]
    assert (out == out[:, :, :1]).all()


def test_decode_16_bit_netpbm_is_scaled():
    values = np.array([0, 1000, 32768, 65535], dtype=">u2").tobytes()
    out = pixels(decode_image(b"P5 4 1 65535\n" + values))
    assert out[0, :, 0].tolist() == [0, 4, 128, 255]


def test_decode_16_bit_color_png_keeps_its_high_bytes():
    import struct
    import zlib

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">6H", 65535, 0, 0, 32768, 16384, 65535)
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert pixels(decode_image(data))[0].tolist() == [[255, 0, 0], [128, 64, 255]]


def test_decode_float_tiff_is_scaled():
    out = pixels(decode_image(encode(Image.fromarray(np.array([[0, 0.5, 1]], dtype=np.float32)), "TIFF")))
    assert out[0, :, 0].tolist() == [0, 128, 255]


def test_decode_float_tiff_above_1_ranges_to_255_and_is_clipped():
    values = np.array([[-5.0, 0.0, 1.5, 100.2, 255.0, 300.0]], dtype=np.float32)
    out = pixels(decode_image(encode(Image.fromarray(values), "TIFF")))
    assert out[0, :, 0].tolist() == [0, 0, 2, 100, 255, 255]


def test_decode_16_bit_gray_is_rounded_to_the_nearest_level():
    values = np.array([[2647, 2699]], dtype=np.uint16)  # 10.30 and 10.502 of 255
    assert pixels(decode_image(encode(Image.fromarray(values), "PNG")))[0, :, 0].tolist() == [10, 11]


def test_decode_one_bit_and_lab():
    bits = Image.new("1", (2, 1), 1)
    bits.putpixel((0, 0), 0)
    assert pixels(decode_image(encode(bits, "PNG")))[0].tolist() == [[0] * 3, [255] * 3]
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(Image.new("RGB", (2, 2), (200, 30, 30)), to_lab)
    assert pixels(decode_image(encode(lab, "TIFF"))).shape == (2, 2, 3)


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_decode_animation_gives_the_first_frame(format):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, BLUE)]
    out = pixels(decode_image(encode(frames[0], format, save_all=True, append_images=frames[1:])))
    assert abs(out - RED).max() < 8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_decode_truncated_image_is_an_error(format):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    data = encode(Image.fromarray(noise), format)
    decode_image(data)
    for cut in (0.3, 0.6, 0.9):
        with pytest.raises(ValueError, match="cannot decode the image"):
            decode_image(data[: int(len(data) * cut)])


@pytest.mark.parametrize(
    "data", [b"", b"<html>not found</html>", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"BM"]
)
def test_decode_of_other_data_is_an_error(data):
    with pytest.raises(ValueError, match="cannot decode the image"):
        decode_image(data)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns about the damage
def test_decode_any_flipped_byte_gives_an_image_or_a_value_error():
    rng = np.random.default_rng(1)
    for format in ("JPEG", "PNG", "GIF", "TIFF"):
        data = encode(corners(), format)
        for _ in range(150):
            damaged = bytearray(data)
            damaged[rng.integers(len(data))] ^= int(rng.integers(1, 256))
            try:
                assert decode_image(bytes(damaged)).mode == "RGB"
            except ValueError as error:
                assert "cannot decode" in str(error)


def test_decode_pixel_bomb_is_an_error(monkeypatch):
    data = encode(Image.new("1", (500, 500)), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match="DecompressionBomb"):
        decode_image(data)


def reopen(image: Image.Image, format: str = "PNG", **options) -> Image.Image:
    return Image.open(io.BytesIO(encode(image, format, **options)))


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.mark.parametrize(("value", "expected"), [(0, 1), (1, 1), (2, 2), (6, 6), (8, 8), (9, 1)])
def test_orientation_is_1_to_8(value, expected):
    assert orientation(reopen(corners(), exif=with_orientation(value))) == expected


def test_a_plain_image_is_rgb_upright_opaque_and_srgb():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    xyz = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()
    wide = handmade.icc_profile((0.61, 0.31, 0.02), (0.21, 0.63, 0.06), (0.15, 0.06, 0.74))
    assert is_plain(reopen(corners()))
    assert is_plain(reopen(corners(), icc_profile=srgb))
    assert is_plain(reopen(corners(), exif=with_orientation(1)))
    assert not is_plain(reopen(corners().convert("L")))
    assert not is_plain(reopen(corners(), transparency=RED))
    assert not is_plain(reopen(corners(), exif=with_orientation(3)))
    assert not is_plain(reopen(corners(), icc_profile=wide))
    assert is_plain(reopen(corners(), icc_profile=xyz))  # not a profile of RGB, so it is ignored


# ---- pixels


def test_to_pixels_is_the_papers_test_transform():
    rng = np.random.default_rng(0)
    images = [
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)) for shape in ((50, 70, 3), (20, 9, 3))
    ]
    images.append(Image.new("L", (5, 5), 7))
    transform = transforms.Compose(
        [
            transforms.Resize((32, 32), interpolation=InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
        ]
    )
    out = to_pixels(images, 32)
    assert (out.shape, out.dtype) == ((3, 3, 32, 32), torch.uint8)
    expected = torch.stack([transform(image.convert("RGB")) for image in images])
    torch.testing.assert_close(normalize(out), expected, rtol=0, atol=1e-5)


def test_normalize_black_and_white_in_bfloat16():
    out = normalize(
        torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 1, 1), torch.bfloat16
    )
    assert out.dtype == torch.bfloat16
    channels = list(zip(MEAN, STD, strict=True))
    expected = torch.tensor([[-m / s for m, s in channels], [(1 - m) / s for m, s in channels]])
    torch.testing.assert_close(out[:, :, 0, 0].float(), expected, rtol=1e-2, atol=0)


def test_to_pixels_of_no_images_is_empty():
    assert to_pixels([], 16).shape == (0, 3, 16, 16)
