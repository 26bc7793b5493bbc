"""The part of a PNG file that its first frame consists of: no texts, no animation, no damaged metadata.

Pillow refuses a file whose text or color profile is large or has a wrong checksum, and it decodes pixels
without a look at theirs. Browsers do the opposite, and so does this module.
"""

import struct
import zlib

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PROFILE_BYTES = 16 << 20
"""A larger color profile is ignored. Those of printers have up to about 3 MB."""

_PALETTE_TYPE = 3
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT")
"""Chunks that pixels are made of: a wrong checksum is an error."""
_USED_METADATA = (b"eXIf", b"iCCP")
"""Kept if the checksum is right."""
# Registered chunks (PNG 3rd edition and its extensions) that do not change the pixels of the first frame.
# Chunks that are not registered are left to Pillow, which ignores them if their checksum is right: their
# name may itself be the damage.
_DROPPED = frozenset(
    (b"tEXt", b"zTXt", b"iTXt", b"gAMA", b"cHRM", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"sBIT", b"bKGD",
     b"hIST", b"pHYs", b"sPLT", b"tIME", b"oFFs", b"pCAL", b"sCAL", b"gIFg", b"gIFx", b"sTER", b"dSIG",
     b"acTL", b"fcTL", b"fdAT")
)  # fmt: skip


def keep_first_frame(data: bytes) -> tuple[bytes, bytes | None]:
    """Drop what the first frame does not need.

    Args:
        data: a file that begins with `SIGNATURE`.

    Returns:
        (a PNG file without metadata but EXIF, its color profile or None). A truncated file stays truncated.

    Raises:
        OSError: a chunk of pixels has a wrong checksum, or a palette image has no palette.
    """
    kept, profile, kinds, at = [SIGNATURE], None, set[bytes](), len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            kept.append(chunk)  # Pillow decides whether what is there is enough
            break
        at += len(chunk)
        if kind in _DROPPED:
            continue
        is_intact = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        if kind in _PIXELS and not is_intact:
            raise OSError(f"wrong checksum in a {kind.decode()} chunk")
        if kind == b"iCCP":
            profile = _unpack_profile(chunk[8:-4]) if is_intact else None
        elif is_intact or kind not in _USED_METADATA:
            kept.append(chunk)
            kinds.add(kind)
        if kind == b"IEND":
            break
    if data[25:26] == bytes([_PALETTE_TYPE]) and b"IDAT" in kinds and b"PLTE" not in kinds:
        raise OSError("a palette image without a palette")
    return b"".join(kept), profile


def transparent_16_bit_color(data: bytes) -> tuple[int, int, int] | None:
    """The transparent color of a PNG with 16 bits per channel and without an alpha channel, if it has one."""
    if not data.startswith(SIGNATURE) or data[24:26] != bytes([16, 2]):
        return None
    at = len(SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == b"tRNS" and length == 6:
            red, green, blue = struct.unpack_from(">HHH", data, at + 8)
            return red, green, blue
        if kind == b"IDAT":
            return None
        at += 12 + length
    return None


def _unpack_profile(body: bytes) -> bytes | None:
    """The profile of an iCCP chunk: name, zero byte, method (0), zlib stream. None if it is unusable."""
    _, _, packed = body.partition(b"\0")
    try:
        stream = zlib.decompressobj()
        profile = stream.decompress(packed[1:], MAX_PROFILE_BYTES)
    except zlib.error:
        return None
    return profile if stream.eof else None
