"""Limits per host, in virtual time: rate, connections, Crawl-delay, back-off, and failures in a row."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from capfilt.stages.fetch.http.deadline import Deadline
from capfilt.stages.fetch.http.hosts import Host, HostLimits, HostTable
from capfilt.stages.status import Failure
from tests.stages.fetch.conftest import VirtualTime

LIMITS = HostLimits(
    max_connections=100, min_interval_s=0.0, workers=1, max_crawl_wait_s=10.0, max_failures=3, rest_s=60.0
)
TOO_MANY = Failure("http_429", "a.test: HTTP 429")
REFUSED = Failure("connect", "refused")


def make_host(**changes: Any) -> Host:
    return Host(replace(LIMITS, **changes))


async def request(
    host: Host, clock: VirtualTime, deadline: Deadline | None = None, *, seconds: float = 0.0
) -> float:
    """Send one request that takes `seconds`; return when it was sent, in seconds since the start."""
    async with host.request_slot(deadline or Deadline(1e6), asyncio.Semaphore(1000)):
        sent = clock.now - 1000.0
        await asyncio.sleep(seconds)
    return sent


def test_rate(virtual_time: VirtualTime) -> None:
    async def send() -> list[float]:
        host = make_host(min_interval_s=0.5)
        return await asyncio.gather(*(request(host, virtual_time, seconds=3.0) for _ in range(4)))

    assert virtual_time.run(send()) == pytest.approx([0.0, 0.5, 1.0, 1.5])


def test_rate_is_kept_after_a_wait_for_a_worker_slot(virtual_time: VirtualTime) -> None:
    """The interval counts from the moment a request is sent, not from its turn."""

    async def send() -> list[float]:
        host, slots, sent = make_host(min_interval_s=0.5), asyncio.Semaphore(1), []

        async def one() -> None:
            async with host.request_slot(Deadline(1e6), slots):
                sent.append(virtual_time.now - 1000.0)
                await asyncio.sleep(2.0)

        await asyncio.gather(*(one() for _ in range(3)))
        return sent

    assert virtual_time.run(send()) == pytest.approx([0.0, 2.0, 4.0])


def test_connections(virtual_time: VirtualTime) -> None:
    async def send() -> list[float]:
        host = make_host(max_connections=2)
        return await asyncio.gather(*(request(host, virtual_time, seconds=1.0) for _ in range(5)))

    assert virtual_time.run(send()) == pytest.approx([0.0, 0.0, 1.0, 1.0, 2.0])


def test_waiting_for_the_rate_does_not_consume_the_deadline(virtual_time: VirtualTime) -> None:
    async def send() -> Deadline:
        host, deadline = make_host(min_interval_s=5.0), Deadline(1.0)
        await request(host, virtual_time)
        assert await request(host, virtual_time, deadline) == pytest.approx(5.0)
        return deadline

    assert virtual_time.run(send()).remaining == 1.0


def test_back_off_holds_for_all_urls_and_consumes_their_deadlines(virtual_time: VirtualTime) -> None:
    async def send() -> None:
        host, deadlines = make_host(), [Deadline(8.0), Deadline(7.01)]
        host.back_off(TOO_MANY, 7.0)
        sent = await asyncio.gather(*(request(host, virtual_time, each) for each in deadlines))
        assert sent == pytest.approx([7.0, 7.0])
        # The second url waits behind the first one: its wait is not its own.
        assert deadlines[0].remaining == pytest.approx(1.0) and deadlines[1].remaining == pytest.approx(7.01)

    virtual_time.run(send())


@pytest.mark.parametrize("remaining", [7.0, 6.9])
def test_back_off_that_exceeds_the_deadline_fails_the_url(
    virtual_time: VirtualTime, remaining: float
) -> None:
    async def send() -> None:
        host = make_host()
        host.back_off(TOO_MANY, 7.0)
        with pytest.raises(
            Failure, match=r"skipped: host asked for a 7 s back-off \(Retry-After\): a.test: H"
        ):
            await request(host, virtual_time, Deadline(remaining))

    virtual_time.run(send())
    assert virtual_time.now == 1000.0


def test_longest_back_off_counts(virtual_time: VirtualTime) -> None:
    async def send() -> None:
        host = make_host()
        host.back_off(TOO_MANY, 7.0)
        host.back_off(Failure("http_5xx", "a.test: HTTP 503"), 3.0)
        with pytest.raises(Failure) as caught:
            await request(host, virtual_time, Deadline(1.0))
        assert caught.value.status == "http_429" and caught.value.final
        assert await request(host, virtual_time) == pytest.approx(7.0)
        host.back_off(TOO_MANY, 7.0)
        host.back_off(Failure("http_5xx", "a.test: HTTP 503"), 9.0)
        with pytest.raises(Failure) as caught:
            await request(host, virtual_time, Deadline(1.0))
        assert caught.value.status == "http_5xx"
        assert await request(host, virtual_time) == pytest.approx(16.0)

    virtual_time.run(send())


@pytest.mark.parametrize(("seconds", "sent"), [(3599.0, 3599.0), (3601.0, 3600.0), (1e9, 3600.0)])
def test_back_off_is_at_most_an_hour(virtual_time: VirtualTime, seconds: float, sent: float) -> None:
    async def send() -> float:
        host = make_host()
        host.back_off(TOO_MANY, seconds)
        return await request(host, virtual_time)

    assert virtual_time.run(send()) == pytest.approx(sent)


def test_back_off_and_rate_are_waited_for_together(virtual_time: VirtualTime) -> None:
    async def send() -> None:
        host, deadline = make_host(min_interval_s=5.0), Deadline(4.0)
        await request(host, virtual_time)
        host.back_off(TOO_MANY, 3.0)
        assert await request(host, virtual_time, deadline) == pytest.approx(5.0)
        assert deadline.remaining == pytest.approx(1.0)  # the back-off

    virtual_time.run(send())


def test_back_off_that_starts_during_the_wait(virtual_time: VirtualTime) -> None:
    async def send() -> None:
        host = make_host(min_interval_s=5.0)
        await request(host, virtual_time)
        waiting = asyncio.create_task(request(host, virtual_time))
        await asyncio.sleep(1.0)
        host.back_off(TOO_MANY, 10.0)
        assert await waiting == pytest.approx(11.0)

    virtual_time.run(send())


def test_crawl_delay(virtual_time: VirtualTime) -> None:
    async def send() -> list[float]:
        host, times = make_host(workers=3, max_crawl_wait_s=9.0), []
        host.set_crawl_delay(1.5)
        host.set_crawl_delay(0.5)  # a shorter one of another port does not count

        async def one() -> None:
            await host.wait_crawl_delay()
            times.append(virtual_time.now - 1000.0)

        outcomes = await asyncio.gather(*(one() for _ in range(4)), return_exceptions=True)
        assert isinstance(outcomes[3], Failure) and outcomes[3].status == "rate"
        assert "Crawl-delay of 1.5 s, shared by 3 workers; the wait of 14 s exceeds" in outcomes[3].message
        return times

    # A wait of exactly the limit (9 s) is allowed.
    assert virtual_time.run(send()) == pytest.approx([0.0, 4.5, 9.0])


def test_crawl_delay_after_a_quiet_time(virtual_time: VirtualTime) -> None:
    async def send() -> None:
        host = make_host(max_crawl_wait_s=0.0)
        await host.wait_crawl_delay()
        host.set_crawl_delay(2.0)
        for _ in range(3):
            await host.wait_crawl_delay()
            await asyncio.sleep(2.0)
        assert virtual_time.now == pytest.approx(1006.0)

    virtual_time.run(send())


def is_skipped(host: Host, port: int = 80) -> bool:
    try:
        host.check_alive(port)
    except Failure as failure:
        assert failure.final and failure.message.startswith("skipped: ")
        return True
    return False


def test_host_is_skipped_after_consecutive_failures(virtual_time: VirtualTime) -> None:
    host = make_host()
    for count in (1, 2, 3):
        assert not is_skipped(host)
        virtual_time.now += 1.0
        host.record_failure(80, Failure("connect", f"refused {count}"), virtual_time.now)
    with pytest.raises(Failure, match=r"\(consecutive failures: 3\): refused 3$") as caught:
        host.check_alive(80)
    assert caught.value.status == "connect"
    assert not is_skipped(host, 8080)
    virtual_time.now += 59.9
    assert is_skipped(host)
    virtual_time.now += 0.1
    assert not is_skipped(host)
    host.record_failure(80, REFUSED, virtual_time.now)  # the fourth in a row
    assert is_skipped(host)


def test_response_ends_a_row_of_failures(virtual_time: VirtualTime) -> None:
    host = make_host()
    for _ in range(5):
        for _ in range(2):
            virtual_time.now += 1.0
            host.record_failure(80, REFUSED, virtual_time.now)
        host.record_response(80)
    assert not is_skipped(host)


def test_concurrent_requests_are_one_failure(virtual_time: VirtualTime) -> None:
    host, started = make_host(max_failures=2), virtual_time.now
    virtual_time.now += 5.0
    for _ in range(10):
        host.record_failure(80, REFUSED, started)
    host.record_failure(80, REFUSED, virtual_time.now - 0.001)
    assert not is_skipped(host)
    host.record_failure(80, REFUSED, virtual_time.now)  # sent after the failure was known
    assert is_skipped(host)


def test_final_failure_skips_the_host_at_once(virtual_time: VirtualTime) -> None:
    host, started = make_host(), virtual_time.now
    virtual_time.now += 5.0
    host.record_failure(80, REFUSED, started)
    host.record_failure(80, Failure("dns", "no such host", final=True), started)
    assert is_skipped(host)


def test_least_recently_used_hosts_are_evicted(virtual_time: VirtualTime) -> None:
    table = HostTable(LIMITS)
    hosts = {}
    for number in range(20_003):
        virtual_time.now += 1.0
        hosts[number] = table.get(f"{number}.test")
    hosts[1].last_used = virtual_time.now
    hosts[2].users = 1
    table.evict_idle()
    kept = {number for number in range(6) if table.get(f"{number}.test") is hosts[number]}
    assert kept == {1, 2, 5}


def test_no_host_is_evicted_up_to_the_limit() -> None:
    table = HostTable(LIMITS)
    hosts = [table.get(f"{number}.test") for number in range(20_000)]
    table.evict_idle()
    assert all(table.get(f"{number}.test") is host for number, host in enumerate(hosts))


def test_cleared_robots() -> None:
    table = HostTable(LIMITS)
    table.get("a.test").robots[("http", 80)] = None  # type: ignore[assignment]
    table.clear_rules()
    assert table.get("a.test").robots == {}
