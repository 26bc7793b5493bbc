"""The time budget of one url: it runs only while the url is being served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Deadline:
    """Seconds that one url has left.

    Args:
        seconds: the whole budget.
    """

    def __init__(self, seconds: float) -> None:
        self.remaining = seconds
        self._timeout: asyncio.Timeout | None = None

    def consume(self, seconds: float) -> None:
        """Subtract `seconds` from the budget."""
        self.remaining -= seconds

    @asynccontextmanager
    async def active(self) -> AsyncIterator[None]:
        """Consume the time spent in this context.

        Raises:
            TimeoutError: the budget is used up.
        """
        start = time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, self.remaining)) as self._timeout:
                yield
        finally:
            self._timeout = None
            self.consume(time.monotonic() - start)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Inside `active()`: do not consume the time spent in this context."""
        timeout = self._timeout
        assert timeout is not None, "paused() is used inside active()"
        expiry, start = timeout.when(), time.monotonic()
        timeout.reschedule(None)
        try:
            yield
        finally:
            waited = time.monotonic() - start
            self.consume(-waited)
            timeout.reschedule(None if expiry is None else expiry + waited)
