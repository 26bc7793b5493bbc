"""A url's time: a deadline that runs only while the url has its turn."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Deadline:
    """What is left of a url's time.

    Args:
        seconds: the deadline.
    """

    def __init__(self, seconds: float) -> None:
        self.remaining = seconds
        self._timeout: asyncio.Timeout | None = None

    def spend(self, seconds: float) -> None:
        self.remaining -= seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Time in here is spent.

        Raises:
            TimeoutError: nothing is left.
        """
        start = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self.remaining)) as self._timeout:
                yield
        finally:
            self._timeout = None
            self.spend(time.monotonic() - start)

    @asynccontextmanager
    async def stopped(self) -> AsyncIterator[None]:
        """Inside `running`: time in here is not the url's own."""
        timeout = self._timeout
        assert timeout is not None, "stopped() is used inside running()"
        deadline, start = timeout.when(), time.monotonic()
        timeout.reschedule(None)
        try:
            yield
        finally:
            waited = time.monotonic() - start
            self.spend(-waited)
            timeout.reschedule(None if deadline is None else deadline + waited)
