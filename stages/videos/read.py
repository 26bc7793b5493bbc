"""The videos of a task, read one at a time from a folder: local, or on any store that fsspec supports."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.image_folder import ImageFolder
from capfilt.stages.fetch.outcomes import locate_image
from capfilt.stages.status import SUCCESS, Failure
from capfilt.stages.videos.frames import read_frames

MAX_VIDEO_BYTES = 1 << 29
"""Size of a file that is read; the whole file is held in memory."""


@dataclass(frozen=True)
class VideoFrames:
    """The frames of a video, or why there are none."""

    frames: list[bytes] = field(default_factory=list)
    """Encoded as JPEG."""
    status: str = SUCCESS
    message: str | None = None


def read_videos(names: Sequence[str], folder: str, count: int) -> list[VideoFrames]:
    """Read evenly spaced frames of videos.

    Args:
        names: paths below the folder.
        folder: local or any fsspec URL.
        count: frames of each video.

    Raises:
        StoreError: the folder cannot be reached.
        ValueError: it is no folder that is read safely.
        VideoSupportMissing: PyAV is not installed.
    """
    config = FetchConfig(image_root=folder, max_bytes=MAX_VIDEO_BYTES)
    return asyncio.run(_read_all(names, config, count))


async def _read_all(names: Sequence[str], config: FetchConfig, count: int) -> list[VideoFrames]:
    folder = ImageFolder(config)
    return [await _read(folder, name, config, count) for name in names]


async def _read(folder: ImageFolder, name: str, config: FetchConfig, count: int) -> VideoFrames:
    async def frames_of(data: bytes) -> list[bytes]:
        return read_frames(data, count)

    try:
        path, is_web = locate_image(name, config)
        if is_web:
            raise Failure("bad_url", "videos are read from a folder; download them first")
        return VideoFrames(await folder.read(path, frames_of))
    except Failure as failure:
        return VideoFrames([], failure.status, failure.message)
