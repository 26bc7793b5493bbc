"""A bound on the bytes that all bodies under way hold together."""

from __future__ import annotations

import asyncio


class Reservation:
    """Bytes that one url holds."""

    def __init__(self) -> None:
        self.size = 0


class ByteBudget:
    """Bytes that are lent to urls; whoever finds none waits until others give theirs back.

    One url at a time may go beyond the limit, or urls that hold parts of it could wait for each other for ever: so
    at most `limit` and the largest single body are held. A server that sends slowly holds little, and thus does not
    stand in the way of others. Belongs to one event loop.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._ahead: Reservation | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def has(self, share: Reservation, size: int) -> bool:
        """Whether `size` bytes more can be had without waiting."""
        return self.used + size <= self.limit or self._ahead is share

    async def take(self, share: Reservation, size: int) -> None:
        while not self.has(share, size):
            if self._ahead is None:
                self._ahead = share
                break
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self.used += size
        share.size += size

    def give(self, share: Reservation) -> None:
        """All that `share` holds, back."""
        self.used -= share.size
        share.size = 0
        if self._ahead is share:
            self._ahead = None
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
