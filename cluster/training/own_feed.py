"""Reads the input of a training that has one worker: in a thread of that worker, without other processes.

There is nobody to share with, and starting processes that read would cost a small training more than the
reading. For several workers see `feed`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from capfilt.cluster.training.feed import Window


@dataclass(frozen=True)
class _Content:
    """What a window holds."""

    counts: list[int]
    read_bytes: int
    parts: list[bytes]


class OwnWindow:
    """A window that is being read.

    Raises (all methods):
        Exception: of the reader. Training never skips data.
    """

    def __init__(self, content: Future[_Content]) -> None:
        self._content = content

    @property
    def counts(self) -> Sequence[int]:
        """Samples of each item; waits until all are read."""
        return self._content.result().counts

    @property
    def read_bytes(self) -> int:
        """Bytes that were read; waits likewise."""
        return self._content.result().read_bytes

    def parts(self) -> Iterator[bytes]:
        """The samples of each item. Each is dropped once it is taken."""
        waiting = self._content.result().parts
        while waiting:
            yield waiting.pop(0)


class OwnFeed:
    """Answers the requests of the only worker, in their order."""

    def __init__(self) -> None:
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="input")
        self._kept: dict[Hashable, Any] = {}

    def request(self, window: Window, rank: int) -> OwnWindow:
        """Ask for a window, without waiting for it.

        Args:
            rank: 0.
        """
        assert window.workers == 1 and rank == 0, "a feed of several workers is `feed.Feed`"
        return OwnWindow(self._reader.submit(self._open, window))

    def _open(self, window: Window) -> _Content:
        contents, read_bytes = [], 0
        for item in window.items:
            key = window.item_key(item)
            content = self._kept.get(key)
            if content is None:
                content, size = window.read(item)
                read_bytes += size
            if window.is_kept:
                self._kept[key] = content
            contents.append(content)
        counts = [window.count(content) for content in contents]
        parts = [window.cut(content, number, counts)[0] for number, content in enumerate(contents)]
        return _Content(counts, read_bytes, parts)
