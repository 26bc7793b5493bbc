"""The marker segments of a JPEG file (ITU T.81, annex B): its end and the number of its scans."""

import re
import struct

import simplejpeg

MAX_SCANS = 100
"""Each scan is a pass over all pixels, and can have 20 bytes. Encoders write about ten; libtiff has the same
limit."""

START = b"\xff\xd8\xff"
"""First bytes of a JPEG file: its start marker, and the beginning of the next marker."""
_END = b"\xff\xd9"
_SCAN = b"\xff\xda"
_PROGRESSIVE = 0xC2
_MARKER = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
"""In entropy-coded data a 0xFF byte is followed by a zero or is a restart marker."""
_TARGETS = {"Gray": "GRAY", "CMYK": "CMYK", "YCCK": "CMYK"}
"""Stored colors -> what libjpeg can decode them to, where that is not RGB."""


def check_and_complete(data: bytes, max_pixels: int) -> bytes:
    """Check the number of scans, and add the end marker where only that is missing.

    Returns:
        The file, with its end marker if every scan line is there; otherwise unchanged.

    Raises:
        OSError: the file has more than `MAX_SCANS` scans.
    """
    has_end = data.endswith(_END)
    if has_end and data.count(_SCAN) <= MAX_SCANS:  # usual; entropy-coded data contains no such bytes
        return data
    has_end, scans, is_complete = _walk(data)
    if scans > MAX_SCANS:
        raise OSError(f"more than {MAX_SCANS} scans")
    if not has_end and is_complete and _has_all_lines(data + _END, max_pixels):
        return data + _END
    return data


def _walk(data: bytes) -> tuple[bool, int, bool]:
    """(whether the end marker is reached, scans, whether the scans contain all bits of all coefficients)."""
    at, scans, progressive = 2, 0, False
    missing: dict[tuple[int, int], int] = {}  # (component, coefficient) -> bits that no scan has yet
    while scans <= MAX_SCANS and (match := _MARKER.search(data, at)):
        marker, at = match[1][0], match.end()
        if marker == _END[1]:
            return True, scans, True
        if marker in (0x01, 0xD8):
            continue
        size = int.from_bytes(data[at : at + 2], "big")
        body = data[at + 2 : at + size]
        if marker == _PROGRESSIVE and not progressive:
            progressive = True
            missing = {(part, k): 1 for part in body[6::3] for k in range(64)}
        elif marker == _SCAN[1]:
            scans += 1
            _mark_scanned(body, missing)
        at += size
    return False, scans, bool(scans) and (not progressive or not missing)


def _mark_scanned(body: bytes, missing: dict[tuple[int, int], int]) -> None:
    """Remove from `missing` what the scan with this header completes."""
    count = body[0] if body else 0
    if len(body) < 4 + 2 * count:
        return
    first, last, bits = struct.unpack_from("3B", body, 1 + 2 * count)
    if bits & 0x0F == 0:  # the lowest bit
        for part in body[1 : 1 + 2 * count : 2]:
            for k in range(first, min(last, 63) + 1):
                missing.pop((part, k), None)


def _has_all_lines(data: bytes, max_pixels: int) -> bool:
    """Whether libjpeg decodes the file without a complaint."""
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(data)
        if width * height > max_pixels:
            return False
        simplejpeg.decode_jpeg(data, _TARGETS.get(colors, "RGB"))
    except ValueError:
        return False
    return True
