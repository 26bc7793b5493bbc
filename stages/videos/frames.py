"""Decodes evenly spaced frames of a video with PyAV (FFmpeg).

The video is decoded from its start, twice: once for the presentation time of every frame, and once for the
frames that are taken. Nothing is sought, and neither the number of frames nor the duration in a header
decides which frames these are, so the result is exact for any container, codec, variable frame rate and order
of frames.

Of a video that lasts from s to e, frame i of n is the one that is shown at s + i (e - s) / n: at a constant
rate and N frames that is frame floor(i N / n), as in salesforce/BLIP.
"""

from __future__ import annotations

import io
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from capfilt.stages.images.jpeg import encode_jpeg
from capfilt.stages.images.resize import downscale
from capfilt.stages.status import Failure, one_line
from capfilt.stages.videos.support import load_av

MAX_PIXELS = 4096 * 4096
"""Pixels of a frame."""
MAX_SECONDS = 1200.0
"""Duration of a video."""
MAX_DECODE_SECONDS = 120.0
"""Processor time for one pass over a video."""
MAX_FRAME_SIDE = 1024
"""Longer side of a stored frame, pixels; larger frames are downscaled."""
FRAME_QUALITY = 95
"""JPEG quality of a stored frame; colors are stored for every pixel."""
MISSING_SHARE = 0.1
"""Share of the duration in the header by which the frames may end too early. More is a truncated file."""
CONSTANT_RATE = ("avi",)
"""Containers that store no times, and whose frames are shown equally long."""
ONE_FRAME_SECONDS = 1.0
"""How much longer a video of one frame may be according to its header."""
CONTAINERS = "mov,matroska,webm,avi,flv,mpeg,mpegts,ogg,asf,3gp,mp4,gif"
"""FFmpeg's demuxers that are used. Others are playlists, which name further files, or are unused, and every
parser of untrusted bytes adds attack surface."""


@dataclass(frozen=True)
class FrameTimes:
    """When the frames of a video are shown, in units of its stream."""

    starts: list[int]
    """Of each frame, ascending."""
    end: int
    """Of the last frame."""


def read_frames(data: bytes, count: int) -> list[bytes]:
    """Evenly spaced frames of a video, upright, as JPEG.

    Args:
        data: the file.
        count: how many; frames repeat in a video with fewer.

    Raises:
        Failure: decode, too_many_pixels, too_big or empty_body.
        VideoSupportMissing: PyAV is not installed.
    """
    if not data:
        raise Failure("empty_body", "the file is empty")
    av = load_av()
    try:
        return [_encode(frame) for frame in _take(av, data, choose_frames(_read_times(av, data), count))]
    except (av.FFmpegError, ValueError, IndexError, EOFError, OverflowError) as error:
        kind = type(error).__name__
        raise Failure("decode", f"cannot decode the video ({one_line(f'{kind}: {error}')})") from error


def choose_frames(times: FrameTimes, count: int) -> list[int]:
    """The numbers of evenly spaced frames, in integer arithmetic; see the top of the file."""
    first, total = times.starts[0], times.end - times.starts[0]
    return [bisect_right(times.starts, first + i * total // count) - 1 for i in range(count)]


def _read_times(av: Any, data: bytes) -> FrameTimes:
    """When the frames are shown.

    Raises:
        Failure: the file is truncated, or exceeds a limit.
    """
    found: list[int | None] = []
    with _open(av, data) as container:
        stream = _stream_of(container)
        for frame, has_time in _decode(container, stream):
            found.append(frame.pts if has_time else None)
            if frame.pts is not None and float(frame.pts * stream.time_base) - _start(stream) > MAX_SECONDS:
                raise Failure("too_big", f"the video lasts longer than {MAX_SECONDS:g} s")
        if not found:
            raise Failure("decode", "the video has no frame; it is damaged or truncated")
        times = _times_of(found)
        if times is not None:
            _check_complete(container, stream, times)
        if times is None or container.format.name in CONSTANT_RATE:
            return FrameTimes(list(range(len(found))), len(found))
        return times


def _times_of(found: Sequence[int | None]) -> FrameTimes | None:
    """The times of frames; None where one has no time, or a time before that of the one before.

    The last frame is shown as long as is usual: what containers tell of its duration is often a guess.
    """
    starts = [start for start in found if start is not None]
    if len(starts) < len(found) or any(b < a for a, b in pairwise(starts)):
        return None
    lasts = sorted(b - a for a, b in pairwise(starts)) or [1]
    return FrameTimes(starts, starts[-1] + max(1, lasts[len(lasts) // 2]))


def _check_complete(container: Any, stream: Any, times: FrameTimes) -> None:
    """Check that the frames do not end long before the end that the header tells.

    Raises:
        Failure: decode.
    """
    told = [float(stream.duration * stream.time_base)] if stream.duration else []
    if container.duration and len(container.streams) == 1:
        told.append(container.duration / 1_000_000)
    lasts = float((times.end - times.starts[0]) * stream.time_base)
    end = max(lasts, float(times.end * stream.time_base))  # Matroska tells the end, others the duration
    allowed = 2 * lasts / len(times.starts) if len(times.starts) > 1 else ONE_FRAME_SECONDS
    if told and min(told) - end > max(MISSING_SHARE * min(told), allowed):
        raise Failure(
            "decode", f"the video is truncated: its frames end after {end:.2f} of {min(told):.2f} s"
        )


def _take(av: Any, data: bytes, numbers: Sequence[int]) -> list[np.ndarray]:
    """The frames with these numbers, ascending, as upright RGB [height, width, 3]."""
    taken: dict[int, np.ndarray] = {}
    with _open(av, data) as container:
        for number, (frame, _) in enumerate(_decode(container, _stream_of(container))):
            if number in numbers:
                taken[number] = _upright(frame)
            if number == numbers[-1]:
                break
    return [taken[number] for number in numbers]


def _open(av: Any, data: bytes) -> Any:
    # Without these a file could make FFmpeg open other files and addresses.
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": ""}
    return av.open(io.BytesIO(data), options=options)


def _stream_of(container: Any) -> Any:
    """The video stream; not the cover of a song."""
    streams = [each for each in container.streams.video if "attached_pic" not in str(each.disposition)]
    if not streams:
        raise Failure("decode", "the file has no video")
    stream = streams[0]
    pixels = stream.codec_context.width * stream.codec_context.height
    if pixels > MAX_PIXELS:
        raise Failure("too_many_pixels", f"frames of {pixels:,} pixels, the limit is {MAX_PIXELS:,}")
    stream.thread_count = 1  # a worker has one processor, and its time is what is limited
    return stream


def _decode(container: Any, stream: Any) -> Iterator[tuple[Any, bool]]:
    """All frames in the order in which they are shown, each with whether its time is in the file.

    Raises:
        Failure: a part of the file is missing, or the limits of time or size are exceeded.
    """
    deadline = time.thread_time() + MAX_DECODE_SECONDS
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise Failure("decode", "the video is damaged or truncated")
        for frame in packet.decode():
            if frame.is_corrupt:
                raise Failure("decode", "the video is damaged: a frame cannot be decoded completely")
            if frame.width * frame.height > MAX_PIXELS:
                raise Failure("too_many_pixels", f"a frame of {frame.width} x {frame.height} pixels")
            yield frame, packet.pts is not None or not packet.size  # the last packet is empty
        if time.thread_time() > deadline:
            raise Failure("decode", f"decoding takes more than {MAX_DECODE_SECONDS:g} s of processor time")


def _start(stream: Any) -> float:
    return float((stream.start_time or 0) * stream.time_base)


def _upright(frame: Any) -> np.ndarray:
    pixels = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _encode(pixels: np.ndarray) -> bytes:
    height, width, _ = pixels.shape
    factor = min(1.0, MAX_FRAME_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return encode_jpeg(downscale(pixels, size), FRAME_QUALITY, full_chroma=True)
