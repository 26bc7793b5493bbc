"""The optional dependency that decodes videos."""

from __future__ import annotations

from types import ModuleType

from capfilt.stages.errors import UserError


class VideoSupportMissing(UserError):
    """Videos are asked for, but PyAV is not installed."""


def load_av() -> ModuleType:
    """The module `av`.

    Raises:
        VideoSupportMissing: it is not installed.
    """
    try:
        import av
    except ImportError as error:
        raise VideoSupportMissing(
            f"tasks with videos need PyAV ({error}); install it with: pip install 'capfilt[video]'"
        ) from error
    return av
