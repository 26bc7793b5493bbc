"""A limit on the bytes that all concurrent downloads of a worker hold together."""

from __future__ import annotations

import asyncio


class Reservation:
    """Bytes of the budget that one url holds."""

    def __init__(self) -> None:
        self.size = 0


class ByteBudget:
    """Bytes shared by concurrent urls; when they are used up, urls wait until another one releases bytes.

    One url at a time may exceed the limit (the overdraft): otherwise urls that each hold a part of the budget
    could wait for each other forever. So at most `limit` bytes plus the largest single body are held. Bytes
    are acquired as they arrive, so a slow server holds few of them. Belongs to one event loop.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._overdraft: Reservation | None = None
        self._waiting: list[asyncio.Future[None]] = []

    def fits(self, reservation: Reservation, size: int) -> bool:
        """Whether `reservation` can acquire `size` more bytes without waiting."""
        return self.used + size <= self.limit or self._overdraft is reservation

    async def acquire(self, reservation: Reservation, size: int) -> None:
        """Add `size` bytes to `reservation`; wait until they fit, or until the overdraft is free."""
        while not self.fits(reservation, size):
            if self._overdraft is None:
                self._overdraft = reservation
                break
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            await turn
        self.used += size
        reservation.size += size

    def release(self, reservation: Reservation) -> None:
        """Return all bytes of `reservation` to the budget."""
        self.used -= reservation.size
        reservation.size = 0
        if self._overdraft is reservation:
            self._overdraft = None
        waiting, self._waiting = self._waiting, []
        for turn in waiting:
            if not turn.done():
                turn.set_result(None)
