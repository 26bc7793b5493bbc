"""Pictures in terminals that can show them: the protocols of kitty and iTerm2, and sixel."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Literal

from PIL import Image

Protocol = Literal["kitty", "iterm", "sixel"]

KITTY_TERMS = ("xterm-kitty", "xterm-ghostty")
ITERM_PROGRAMS = ("iTerm.app", "WezTerm")
SIXEL_TERMS = ("foot", "foot-extra", "mlterm", "yaft-256color", "contour")
SIDE = 360
"""Longer side of a picture, pixels."""
CHUNK = 4096
"""Most bytes of a kitty sequence."""
COLORS = 128
"""Colors of a sixel picture."""


def find_protocol(environment: Mapping[str, str], is_terminal: bool) -> Protocol | None:
    """The protocol of the terminal by its environment variables, None if it is not known to show pictures.

    Inside tmux and screen nothing is shown: they take the sequences away or print them as text.

    Args:
        is_terminal: whether the output is a terminal at all.
    """
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if not is_terminal or "TMUX" in environment or term.startswith(("screen", "tmux")):
        return None
    if term in KITTY_TERMS or "KITTY_WINDOW_ID" in environment or program == "ghostty":
        return "kitty"
    if program in ITERM_PROGRAMS:
        return "iterm"
    return "sixel" if term in SIXEL_TERMS else None


def encode_picture(image: bytes, protocol: Protocol) -> bytes:
    """The sequence with which a terminal shows an image, made smaller if it is large.

    Raises:
        OSError: the image cannot be decoded.
    """
    with Image.open(io.BytesIO(image)) as opened:
        picture = opened.convert("RGB")
    picture.thumbnail((SIDE, SIDE))
    if protocol == "sixel":
        return _sixel(picture)
    sink = io.BytesIO()
    picture.save(sink, "PNG")
    data = base64.standard_b64encode(sink.getvalue())
    if protocol == "iterm":
        size = str(len(sink.getvalue())).encode()
        return b"\x1b]1337;File=inline=1;size=" + size + b":" + data + b"\a\n"
    return _kitty(data) + b"\n"


def _kitty(data: bytes) -> bytes:
    chunks = [data[i : i + CHUNK] for i in range(0, len(data), CHUNK)]
    parts = []
    for number, chunk in enumerate(chunks):
        first = b"a=T,f=100," if number == 0 else b""
        more = b"1" if number < len(chunks) - 1 else b"0"
        parts.append(b"\x1b_G" + first + b"m=" + more + b";" + chunk + b"\x1b\\")
    return b"".join(parts)


def _sixel(picture: Image.Image) -> bytes:
    """Bands of six rows: for each color the columns in which it has pixels, as a bit pattern."""
    indexed = picture.quantize(COLORS)
    width, height = indexed.size
    palette = indexed.getpalette() or []
    pixels = indexed.tobytes()
    lines = [f'\x1bPq"1;1;{width};{height}']
    for color in range(len(palette) // 3):
        red, green, blue = (round(value * 100 / 255) for value in palette[3 * color : 3 * color + 3])
        lines.append(f"#{color};2;{red};{green};{blue}")
    for top in range(0, height, 6):
        rows = [pixels[y * width : (y + 1) * width] for y in range(top, min(top + 6, height))]
        for color in sorted(set().union(*rows)):
            bits = (sum(1 << i for i, row in enumerate(rows) if row[x] == color) for x in range(width))
            lines.append(f"#{color}" + "".join(chr(63 + bit) for bit in bits) + "$")
        lines.append("-")
    return ("".join(lines) + "\x1b\\\n").encode()
