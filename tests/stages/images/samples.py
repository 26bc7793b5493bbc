"""Images drawn with Pillow, and their encoded bytes."""

import io
import struct
import zlib

from PIL import Image

from tests.stages.images import handmade

RED, GREEN, BLUE, WHITE = (220, 30, 40), (30, 160, 60), (40, 60, 200), (255, 255, 255)
COLORS = [RED, GREEN, BLUE, WHITE]


def quarters(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    """Red | green over blue | white."""
    image = Image.new("RGB", (width, height))
    for column, row, color in ((0, 0, RED), (1, 0, GREEN), (0, 1, BLUE), (1, 1, WHITE)):
        box = (column * width // 2, row * height // 2, (column + 1) * width // 2, (row + 1) * height // 2)
        image.paste(color, box)
    return image.quantize(8) if mode == "P" else image.convert(mode)


def encode(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, format_, **options)
    return sink.getvalue()


def png_header(width: int, height: int, body: bytes = b"") -> bytes:
    header = handmade.chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = handmade.chunk(b"IDAT", zlib.compress(body))
    return b"\x89PNG\r\n\x1a\n" + header + data + handmade.chunk(b"IEND", b"")
