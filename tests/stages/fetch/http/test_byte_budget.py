"""The byte budget: who waits, who may exceed it, and who continues after a release."""

import asyncio

import pytest

from capfilt.stages.fetch.http.byte_budget import ByteBudget, Reservation


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_bytes_fit_up_to_the_limit() -> None:
    async def check() -> None:
        budget, one, two = ByteBudget(10), Reservation(), Reservation()
        assert budget.fits(one, 10) and not budget.fits(one, 11)
        await budget.acquire(one, 6)
        await budget.acquire(two, 4)
        assert (one.size, two.size, budget.used) == (6, 4, 10)
        assert not budget.fits(one, 1) and budget.fits(two, 0)
        budget.release(one)
        assert (one.size, budget.used) == (0, 4)
        assert budget.fits(two, 6) and not budget.fits(two, 7)

    asyncio.run(check())


def test_one_reservation_at_a_time_may_exceed_the_limit() -> None:
    """So two bodies that together exceed the limit cannot block each other."""

    async def check() -> None:
        budget = ByteBudget(10)
        first, second, third = Reservation(), Reservation(), Reservation()
        await budget.acquire(first, 5)
        await budget.acquire(second, 5)
        await budget.acquire(first, 7)  # the overdraft
        assert budget.used == 17 and budget.fits(first, 100) and not budget.fits(second, 1)
        await budget.acquire(first, 3)
        waiting = [asyncio.create_task(budget.acquire(each, 2)) for each in (second, third)]
        await settle()
        assert not any(task.done() for task in waiting) and budget.used == 20
        budget.release(first)
        await settle()
        assert all(task.done() for task in waiting)
        assert (first.size, second.size, third.size, budget.used) == (0, 7, 2, 9)

    asyncio.run(check())


def test_overdraft_passes_on_when_it_is_released() -> None:
    async def check() -> None:
        budget = ByteBudget(10)
        first, second, third = Reservation(), Reservation(), Reservation()
        await budget.acquire(first, 15)
        waiting = [asyncio.create_task(budget.acquire(each, 12)) for each in (second, third)]
        await settle()
        assert not any(task.done() for task in waiting)
        budget.release(first)
        await settle()
        assert [task.done() for task in waiting] == [True, False] and budget.used == 12
        budget.release(third)  # holds nothing: changes nothing
        await settle()
        assert not waiting[1].done()
        budget.release(second)
        await settle()
        assert waiting[1].done() and budget.used == 12

    asyncio.run(check())


def test_cancelled_waiter_holds_nothing() -> None:
    async def check() -> None:
        budget, first, second = ByteBudget(10), Reservation(), Reservation()
        await budget.acquire(first, 15)
        waiting = asyncio.create_task(budget.acquire(second, 1))
        await settle()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        budget.release(first)
        assert (second.size, budget.used) == (0, 0)

    asyncio.run(check())
