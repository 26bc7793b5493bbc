"""Images written byte by byte from the specifications of their formats, without the codecs under test.

Each image consists of four flat quarters, given as colors row by row.
"""

import struct
import zlib
from collections.abc import Sequence

Color = tuple[int, ...]
SIDE = 32


def quarter(colors: Sequence[Color], x: int, y: int, side: int = SIDE) -> Color:
    return colors[2 * (2 * y >= side) + (2 * x >= side)]


def png(colors: Sequence[Color], *, depth: int = 8, color_type: int = 2, extra: bytes = b"") -> bytes:
    """PNG of `depth` bits per sample.

    Args:
        color_type: 0 gray, 2 RGB, 3 palette indexes, 4 gray + alpha, 6 RGBA.
        extra: chunks after IHDR.
    """
    form = ">H" if depth == 16 else ">B"
    rows = [
        b"\0" + b"".join(struct.pack(form, v) for x in range(SIDE) for v in quarter(colors, x, y))
        for y in range(SIDE)
    ]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, depth, color_type, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def tiff_cmyk(colors: Sequence[Color]) -> bytes:
    """Uncompressed TIFF 6.0, separated; 255 = full ink."""
    pixels = bytes(v for y in range(SIDE) for x in range(SIDE) for v in quarter(colors, x, y))
    tags = [  # tag, type (3 short, 4 long), count, value
        (256, 3, 1, SIDE), (257, 3, 1, SIDE), (258, 3, 4, 122), (259, 3, 1, 1), (262, 3, 1, 5),
        (273, 4, 1, 130), (277, 3, 1, 4), (278, 3, 1, SIDE), (279, 4, 1, len(pixels)),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\0\0\0\0"
    assert len(head) == 122
    return head + struct.pack("<4H", 8, 8, 8, 8) + pixels


def exif(orientation: int, order: str) -> bytes:
    """An APP1 segment with only the orientation; byte order `order` is "<" or ">"."""
    tiff = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
        f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0
    )
    return segment(0xE1, b"Exif\0\0" + tiff)


def segment(marker: int, data: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpeg(colors: Sequence[Color], *, width: int = SIDE, height: int = SIDE, head: bytes = b"") -> bytes:
    """Baseline JPEG (ITU T.81) of flat 8 x 8 blocks: only DC coefficients, quantized by 1.

    Args:
        colors: three values (RGB, stored as YCbCr) or four (CMYK ink, stored inverted as Adobe does) each.
        head: segments after the start-of-image marker.
    """
    cmyk = len(colors[0]) == 4
    stored = [[255 - v for v in c] if cmyk else _ycc(c) for c in colors]
    parts = len(stored[0])
    adobe = segment(0xEE, b"Adobe" + struct.pack(">HHHB", 100, 0, 0, 0)) if cmyk else b""
    frame = struct.pack(">BHHB", 8, height, width, parts) + b"".join(
        bytes((i + 1, 0x11, 0)) for i in range(parts)
    )
    # Twelve DC categories, four bits each; one AC code, "end of block", one bit.
    tables = bytes([0, 0, 0, 0, 12, *[0] * 12, *range(12)]) + bytes([0x10, 1, *[0] * 15, 0])
    scan = bytes([parts]) + b"".join(bytes((i + 1, 0)) for i in range(parts)) + bytes([0, 63, 0])
    bits, last = [], [0] * parts
    for y in range(0, height, 8):
        for x in range(0, width, 8):
            color = stored[2 * (2 * y >= height) + (2 * x >= width)]
            for part in range(parts):
                level = round((color[part] - 128) * 8)
                bits.append(_dc(level - last[part]) + "0")
                last[part] = level
    text = "".join(bits)
    text += "1" * (-len(text) % 8)
    body = bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8)).replace(b"\xff", b"\xff\0")
    return b"".join(
        (b"\xff\xd8", head, adobe, segment(0xDB, b"\0" + b"\1" * 64), segment(0xC0, frame),
         segment(0xC4, tables), segment(0xDA, scan), body, b"\xff\xd9")
    )  # fmt: skip


def _ycc(color: Color) -> list[float]:
    r, g, b = color  # JFIF 1.02
    return [
        0.299 * r + 0.587 * g + 0.114 * b,
        128 - 0.168736 * r - 0.331264 * g + 0.5 * b,
        128 + 0.5 * r - 0.418688 * g - 0.081312 * b,
    ]


def _dc(difference: int) -> str:
    size = abs(difference).bit_length()
    if not size:
        return "0000"
    value = difference if difference > 0 else difference + (1 << size) - 1
    return f"{size:04b}{value:0{size}b}"


def gif(frames: Sequence[Sequence[int]], palette: Sequence[Color], transparent: int | None = None) -> bytes:
    """GIF89a; each frame is four palette indexes (of eight colors), row by row."""
    assert len(palette) == 8
    screen = struct.pack("<HHBBB", SIDE, SIDE, 0xF2, 0, 0) + bytes(v for c in palette for v in c)
    out = b"GIF89a" + screen
    for frame in frames:
        flags, index = (1, transparent) if transparent is not None else (0, 0)
        out += b"!\xf9\x04" + struct.pack("<BHB", flags, 10, index) + b"\0"
        out += b"," + struct.pack("<HHHHB", 0, 0, SIDE, SIDE, 0) + b"\x03" + _blocks(_lzw(frame)) + b"\0"
    return out + b";"


def _lzw(frame: Sequence[int]) -> bytes:
    """4-bit codes; the table is cleared before it needs five bits."""
    codes = []
    for i in range(SIDE * SIDE):
        codes += [8] if i % 4 == 0 else []
        codes.append(frame[2 * (2 * (i // SIDE) >= SIDE) + (2 * (i % SIDE) >= SIDE)])
    codes.append(9)
    codes += [0] * (len(codes) % 2)
    return bytes(low | high << 4 for low, high in zip(codes[::2], codes[1::2], strict=True))


def _blocks(data: bytes) -> bytes:
    return b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))


def icc_profile(red: Sequence[float], green: Sequence[float], blue: Sequence[float]) -> bytes:
    """A display profile (ICC.1:2001) with these primaries (XYZ under D50) and gamma 2.2."""

    curve = _curve(2.2)
    return _profile(
        b"RGB ",
        [(b"rXYZ", _xyz(red)), (b"gXYZ", _xyz(green)), (b"bXYZ", _xyz(blue)), (b"rTRC", curve),
         (b"gTRC", curve), (b"bTRC", curve)],
    )  # fmt: skip


def gray_profile(gamma: float) -> bytes:
    """A profile (ICC.1:2001) of gray images with this gamma."""
    return _profile(b"GRAY", [(b"kTRC", _curve(gamma))])


def _xyz(values: Sequence[float]) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(colors: bytes, tags: list[tuple[bytes, bytes]]) -> bytes:
    name = b"handmade\0"
    text = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(4 + 4 + 2 + 1 + 67)
    tags = [(b"desc", text + bytes(-len(text) % 4)), (b"wtpt", _xyz((0.9642, 1.0, 0.8249))), *tags]
    at, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for sign, data in tags:
        table += sign + struct.pack(">II", at + len(body), len(data))
        body += data
    size = at + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"\0\0\0\0", 0x02100000, b"mntr", colors, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", round(0.9642 * 65536), 65536, round(0.8249 * 65536)) + bytes(48)
    assert len(head) == 128
    return head + struct.pack(">I", len(tags)) + table + body
