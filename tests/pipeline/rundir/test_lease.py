"""One owner per run directory, on a local disk; tests/faults does the same on an object store."""

import json
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from capfilt.pipeline.rundir import lease
from capfilt.pipeline.rundir.lease import LeaseError, acquire, describe_this_process, hold
from capfilt.stages.storage.store import Store


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 0.5)
    return Store(str(tmp_path / "run"))


def write_lease(store, number=1, beats=0, **changes):
    """Write the lease of a process on another machine."""
    owner = {
        "host": "far",
        "pid": 7,
        "machine": "other",
        "process": "1",
        "since": "2026-01-01T00:00:00+00:00",
    }
    data = json.dumps(owner | changes | {"beats": beats})
    store.put(f"lease/{number:06d}.json", data.encode())


class Clock:
    """Replaces `time` in the module `lease`: sleeping takes no time. Calls `events` when their time has come.

    Args:
        events: second → function.
    """

    def __init__(self, monkeypatch, events=()):
        self.now, self.events = 100.0, dict(events)
        monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))

    def sleep(self, seconds):
        self.now += seconds
        for second in [each for each in self.events if self.now >= 100.0 + each]:
            self.events.pop(second)()


def test_lease_is_released_at_the_end(store):
    with hold(store, print):
        assert store.list("lease") == ["000001.json"]
    assert store.list("lease") == []


def test_second_process_is_refused_in_one_line_while_the_owner_is_alive(store):
    with hold(store, print), pytest.raises(LeaseError) as error:
        acquire(store, print)
    text = str(error.value)
    assert f"process {os.getpid()} on " in text and "--set run.dir" in text and "\n" not in text


def test_owner_on_another_machine_without_heartbeat_loses_the_lease_when_it_lapses(store):
    write_lease(store)
    lines = []
    with hold(store, lines.append):
        assert store.list("lease") == ["000002.json"]
    assert len(lines) == 1 and "process 7 on far" in lines[0]


def test_lease_lapses_after_60_seconds_and_not_before(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 5.0)
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 60.0)
    write_lease(store)
    clock = Clock(monkeypatch)
    with hold(store, lambda line: None):
        assert clock.now == 100.0 + 60
    write_lease(store, number=3)
    clock = Clock(monkeypatch, {59: lambda: write_lease(store, number=3, beats=1)})
    with pytest.raises(LeaseError, match="another run is at work there"):
        acquire(store, lambda line: None)
    assert clock.now == 100.0 + 59


def test_user_is_told_once_when_the_owner_has_missed_one_and_a_half_heartbeats(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 4.0)
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 60.0)
    write_lease(store)
    clock, told_at = Clock(monkeypatch), []
    with hold(store, lambda line: told_at.append(clock.now - 100.0)):
        pass
    (second,) = told_at
    assert 6.0 < second <= 6.0 + 0.8  # looked at every fifth of a heartbeat


def test_owner_that_releases_meanwhile_is_not_waited_for_longer(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 5.0)
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 60.0)
    write_lease(store)
    clock = Clock(monkeypatch, {3: lambda: store.remove_file("lease/000001.json")})
    with hold(store, print):
        assert clock.now == 100.0 + 3


def test_dead_process_of_this_machine_loses_the_lease_at_once(store, monkeypatch):
    code = (
        "import os, sys; from capfilt.pipeline.rundir import lease; "
        "from capfilt.stages.storage.store import Store; "
        "lease.acquire(Store(sys.argv[1]), print); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, store.url], check=False, cwd=os.getcwd())
    assert store.list("lease") == ["000001.json"]
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 1000.0)
    with hold(store, print):
        assert store.list("lease") == ["000002.json"]


def test_later_process_with_the_same_number_is_not_the_owner(store, monkeypatch):
    write_lease(store, **(describe_this_process() | {"process": "0"}))
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 1000.0)
    with hold(store, print):
        assert store.list("lease") == ["000002.json"]


def test_one_of_many_competitors_gets_a_lapsed_lease(store):
    write_lease(store)
    won, refused = [], []

    def attempt():
        try:
            won.append(acquire(store, lambda line: None))
        except LeaseError:
            refused.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(refused) == 7
    won[0].release()


def test_suspended_owner_notices_that_another_process_has_taken_over(store):
    held = acquire(store, print)
    write_lease(store, number=2)
    held._thread.join(timeout=5)
    with pytest.raises(LeaseError, match=r"process 7 on far, since .*, has taken the run directory over"):
        held.check()
    held.release()
    assert store.list("lease") == ["000001.json", "000002.json"]  # the lease of the other process stays


def test_suspended_owner_notices_a_third_process_whose_lease_has_the_same_number(store):
    held = acquire(store, print)
    write_lease(store, number=1, token="third", beats=3)
    held._thread.join(timeout=5)
    with pytest.raises(LeaseError, match="process 7 on far"):
        held.check()
    held.release()
    assert json.loads(store.read("lease/000001.json"))["token"] == "third"


def test_suspended_owner_notices_that_another_process_has_taken_over_and_ended(store):
    held = acquire(store, print)
    store.remove_file("lease/000001.json")
    held._thread.join(timeout=5)
    with pytest.raises(LeaseError, match="its lease is gone: another run has taken it over") as error:
        held.check()
    assert "\n" not in str(error.value)
    held.release()
    assert store.list("lease") == []


def test_lease_that_is_lost_between_two_heartbeats_is_not_removed(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 1000.0)
    held = acquire(store, print)
    write_lease(store, number=1, token="third")
    held.release()
    assert store.list("lease") == ["000001.json"]


def test_store_that_is_unreachable_for_a_moment_does_not_end_the_lease(store, monkeypatch):
    held = acquire(store, print)
    failures = iter([OSError("503"), OSError("503")])
    put, written = Store.put, threading.Event()

    def shaky(self, name, data):
        error = next(failures, None)
        if error is not None:
            raise error
        entry = put(self, name, data)
        written.set()
        return entry

    monkeypatch.setattr(Store, "put", shaky)
    assert written.wait(30)
    held.check()
    assert json.loads(store.read("lease/000001.json"))["beats"] > 0
    held.release()


def test_confirm_asks_the_store_although_no_heartbeat_has_noticed_the_loss(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 1000.0)
    held = acquire(store, print)
    held.confirm()
    write_lease(store, number=2, token="another")
    held.check()
    with pytest.raises(LeaseError, match=r"process 7 on far, .* has taken the run directory over"):
        held.confirm()
    store.remove_file("lease/000002.json")
    with pytest.raises(LeaseError):  # a lost lease stays lost
        held.confirm()
    held.release()


DAMAGED = (b"", b"\0" * 80, b"{", b"[]", b"null", b'{"pid": 7}', b'{"host": "far", "pid": "7", "since": ""}')


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_lease_lapses(store, content):
    store.put("lease/000001.json", content)
    lines = []
    with hold(store, lines.append):
        assert store.list("lease") == ["000002.json"]
    assert len(lines) == 1 and "held by an unknown process, whose lease file is damaged" in lines[0]


@pytest.mark.parametrize("content", DAMAGED)
def test_owner_writes_its_damaged_lease_again(store, content):
    with hold(store, print) as held:
        store.put("lease/000001.json", content)
        held.confirm()
        with pytest.raises(LeaseError, match=f"process {os.getpid()} on"):
            acquire(store, print)
    assert store.list("lease") == []


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_lease_of_a_process_that_took_over_ends_the_former_owner(store, content):
    with hold(store, print) as held:
        store.put("lease/000002.json", content)
        with pytest.raises(LeaseError, match="an unknown process, whose lease file is damaged, has taken"):
            held.confirm()
