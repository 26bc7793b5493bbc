"""One rule of orientation: the tag in a file's EXIF or TIFF block counts, in no other place.

Browsers do the same. AVIF says in its container how to turn an image, and its EXIF tag does not count.
"""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from capfilt.models.images.decode import decode_image
from capfilt.stages.images.decode import DecodeConfig, decode_and_resize
from tests.stages.images import handmade
from tests.stages.images.samples import BLUE, COLORS, GREEN, RED, WHITE, encode, quarters
from tests.stages.images.test_decode import EXIF, assert_near

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF>'
    b"</x:xmpmeta>"
)
UPRIGHT = [RED, GREEN, BLUE, WHITE]
SIZE = (64, 48)


def tiff_block(orientation: int) -> bytes:
    """EXIF as a TIFF block, without a format's wrapping."""
    return handmade.exif(orientation, ">")[10:]


def png(orientation: int) -> bytes:
    data = encode(quarters(*SIZE))
    return data[:33] + handmade.chunk(b"eXIf", tiff_block(orientation)) + data[33:]


def jpeg(orientation: int) -> bytes:
    return handmade.jpeg(COLORS, width=64, height=48, head=handmade.exif(orientation, ">"))


def webp(orientation: int) -> bytes:
    """Container with an EXIF chunk (RFC 9649, 2.7)."""
    image = encode(quarters(*SIZE), "WEBP", lossless=True)[12:]
    extended = b"VP8X" + struct.pack("<IB3x", 10, 0x08) + bytes([63, 0, 0, 47, 0, 0])
    block = tiff_block(orientation)
    body = b"WEBP" + extended + image + b"EXIF" + struct.pack("<I", len(block)) + block
    return b"RIFF" + struct.pack("<I", len(body)) + body


def tiff(orientation: int, compression: int = 1, xmp: bytes = b"") -> bytes:
    """TIFF 6.0 with tag 274 (0: without), and with XMP in tag 700."""
    body = quarters(*SIZE).tobytes()
    if compression == 32773:  # PackBits, literals only
        pieces = (body[at : at + 96] for at in range(0, len(body), 96))
        body = b"".join(bytes([95]) + piece for piece in pieces)
    tags = [  # tag, type (1 byte, 3 short, 4 long), count, value
        (256, 3, 1, 64), (257, 3, 1, 48), (258, 3, 3, 200), (259, 3, 1, compression), (262, 3, 1, 2),
        (273, 4, 1, 206), (274, 3, 1, orientation), (277, 3, 1, 3), (278, 3, 1, 48), (279, 4, 1, len(body)),
        (700, 1, len(xmp), 206 + len(body)),
    ]  # fmt: skip
    tags = [tag for tag in tags if (tag[0] != 274 or orientation) and (tag[0] != 700 or xmp)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0"
    return head.ljust(200, b"\0") + struct.pack("<3H", 8, 8, 8) + body + xmp


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    w, h = image.size
    return [image.getpixel((x, y)) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]  # type: ignore[misc]


def assert_displayed(data: bytes, colors: list[tuple[int, ...]], size: tuple[int, int]) -> None:
    """As a stored image, as the original bytes in later stages, and at a fraction of its size."""
    decoded = decode_image(data)
    assert decoded.size == size
    assert_near(corners(decoded), colors, tolerance=14)
    for side in (384, 24, 12):
        stored = decode_and_resize(data, DecodeConfig(min_side=8, size=max(16, side)))
        assert (stored.original_width, stored.original_height) == size
        assert (stored.width > stored.height) == (size[0] > size[1])
        assert abs(stored.width / stored.height - size[0] / size[1]) < 0.05
        with Image.open(io.BytesIO(stored.image)) as image:
            assert_near(corners(image), colors, tolerance=24)
    kept = decode_and_resize(data, DecodeConfig(min_side=8, resize="original"))
    assert (kept.width, kept.height) == size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file", [jpeg, png, webp, tiff])
def test_the_exif_tag_turns_an_image(file, orientation: int) -> None:  # type: ignore[no-untyped-def]
    size = SIZE if orientation < 5 else SIZE[::-1]
    assert_displayed(file(orientation), EXIF[orientation], size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_compressed_tiff_is_turned(orientation: int) -> None:
    size = SIZE if orientation < 5 else SIZE[::-1]
    assert_displayed(tiff(orientation, 32773), EXIF[orientation], size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_container_turns_an_avif(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation  # Pillow writes it as `irot` and `imir`
    data = encode(quarters(*SIZE), "AVIF", exif=exif, quality=95)
    assert orientation == 1 or b"irot" in data or b"imir" in data
    assert_displayed(data, EXIF[orientation], SIZE if orientation < 5 else SIZE[::-1])


def test_an_orientation_in_xmp_turns_nothing() -> None:
    image = quarters(*SIZE)
    jpeg_head = handmade.segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP)
    png_data = encode(image)
    texts = [
        handmade.chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        handmade.chunk(b"tEXt", b"XML:com.adobe.xmp\0" + XMP),
        handmade.chunk(b"tEXt", b"Raw profile type exif\0\nexif\n 32\n" + tiff_block(6).hex().encode()),
    ]
    files = {
        "JPEG": handmade.jpeg(COLORS, width=64, height=48, head=jpeg_head),
        "WEBP": encode(image, "WEBP", lossless=True, xmp=XMP),
        "AVIF": encode(image, "AVIF", quality=95, xmp=XMP),
        "TIFF": tiff(0, xmp=XMP),
        "compressed TIFF": tiff(0, 32773, xmp=XMP),
        "GIF": encode(image, "GIF", xmp=XMP),
        **{f"PNG {i}": png_data[:33] + text + png_data[33:] for i, text in enumerate(texts)},
        **{f"PNG end {i}": png_data[:-12] + text + png_data[-12:] for i, text in enumerate(texts)},
    }
    for name, data in files.items():
        assert XMP in data or name.startswith(("PNG", "GIF")), name
        assert_displayed(data, UPRIGHT, SIZE)


def test_exif_and_xmp_that_differ() -> None:
    data = encode(quarters(*SIZE), "WEBP", lossless=True, exif=b"Exif\0\0" + tiff_block(3), xmp=XMP)
    assert_displayed(data, EXIF[3], SIZE)
    assert_displayed(tiff(8, xmp=XMP), EXIF[8], SIZE[::-1])


def test_orientation_of_a_16_bit_transparent_png() -> None:
    """The alpha channel is turned with the colors."""
    colors = [(v * 257,) for v in (117, 0, 255, 40)]
    transparent = handmade.chunk(b"tRNS", struct.pack(">H", 0))
    exif = handmade.chunk(b"eXIf", tiff_block(6))
    out = np.asarray(decode_image(handmade.png(colors, depth=16, color_type=0, extra=transparent + exif)))
    assert out[[8, 8, 24, 24], [8, 24, 8, 24], 0].tolist() == [255, 117, 40, 255]
