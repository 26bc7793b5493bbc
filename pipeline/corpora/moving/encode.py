"""Writing of videos with PyAV."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from capfilt.stages.videos.support import load_av

RATE = 8
"""Frames per second."""
OPTIONS = {"crf": "8", "preset": "veryfast", "threads": "1"}
"""Nearly without loss; one thread writes the same bytes each time."""


def write_video(path: Path, frames: Iterable[Image.Image], rate: int = RATE) -> None:
    """Write an mp4 (H.264, 4:4:4: small images would lose their colors).

    Args:
        path: the file.
        frames: RGB images of one size.
        rate: frames per second.

    Raises:
        VideoSupportMissing: PyAV is not installed.
    """
    av = load_av()
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=OPTIONS)
        stream.pix_fmt = "yuv444p"
        for number, image in enumerate(frames):
            if not number:
                stream.width, stream.height = image.size
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
