"""The time budget of a url, in virtual time."""

import asyncio

import pytest

from capfilt.stages.fetch.http.deadline import Deadline
from tests.stages.fetch.conftest import VirtualTime


def test_only_active_time_is_consumed(virtual_time: VirtualTime) -> None:
    async def serve() -> Deadline:
        deadline = Deadline(10.0)
        async with deadline.active():
            await asyncio.sleep(3.0)
        await asyncio.sleep(100.0)
        async with deadline.active():
            await asyncio.sleep(2.0)
        return deadline

    assert virtual_time.run(serve()).remaining == pytest.approx(5.0)


def test_consumed_time_is_subtracted() -> None:
    deadline = Deadline(10.0)
    deadline.consume(4.0)
    deadline.consume(-1.0)
    assert deadline.remaining == 7.0


@pytest.mark.parametrize(("seconds", "in_time"), [(6.9, True), (7.1, False)])
def test_timeout_when_the_budget_is_used_up(virtual_time: VirtualTime, seconds: float, in_time: bool) -> None:
    async def serve() -> bool:
        deadline = Deadline(10.0)
        deadline.consume(3.0)
        try:
            async with deadline.active():
                await asyncio.sleep(seconds)
        except TimeoutError:
            assert deadline.remaining == pytest.approx(0.0)
            return False
        return True

    assert virtual_time.run(serve()) == in_time


def test_overdrawn_budget_times_out_at_once(virtual_time: VirtualTime) -> None:
    async def serve() -> None:
        deadline = Deadline(1.0)
        deadline.consume(5.0)
        with pytest.raises(TimeoutError):
            async with deadline.active():
                await asyncio.sleep(0.001)

    start = virtual_time.now
    virtual_time.run(serve())
    assert virtual_time.now == start


@pytest.mark.parametrize(("after", "in_time"), [(7.9, True), (8.1, False)])
def test_paused_time_is_not_consumed(virtual_time: VirtualTime, after: float, in_time: bool) -> None:
    async def serve() -> bool:
        deadline = Deadline(10.0)
        try:
            async with deadline.active():
                await asyncio.sleep(2.0)
                async with deadline.paused():
                    await asyncio.sleep(50.0)
                assert deadline.remaining == pytest.approx(60.0)  # the 52 s are consumed at the end
                await asyncio.sleep(after)
        except TimeoutError:
            return False
        assert deadline.remaining == pytest.approx(8.0 - after)
        return True

    assert virtual_time.run(serve()) == in_time


def test_exception_in_a_pause_keeps_the_accounts(virtual_time: VirtualTime) -> None:
    async def serve() -> Deadline:
        deadline = Deadline(10.0)
        with pytest.raises(KeyError):
            async with deadline.active(), deadline.paused():
                await asyncio.sleep(50.0)
                raise KeyError
        return deadline

    assert virtual_time.run(serve()).remaining == pytest.approx(10.0)


def test_pause_outside_of_active_is_a_bug(virtual_time: VirtualTime) -> None:
    async def serve() -> None:
        with pytest.raises(AssertionError, match=r"inside active\(\)"):
            async with Deadline(1.0).paused():
                pass

    virtual_time.run(serve())
