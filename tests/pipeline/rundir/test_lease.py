"""One owner per run directory, on a local disk; tests/faults does the same on an object store."""

import json
import os
import subprocess
import sys
import threading

import pytest

from capfilt.pipeline.rundir import lease
from capfilt.pipeline.rundir.lease import LeaseError, acquire, hold
from capfilt.stages.storage.store import Store


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 0.5)
    return Store(str(tmp_path / "run"))


def foreign(run, number=1, beats=0, **changes):
    """A lease of another machine."""
    who = {"host": "far", "pid": 7, "machine": "other", "process": "1", "since": "2026-01-01T00:00:00+00:00"}
    run.put(f"lease/{number:06d}.json", json.dumps(who | changes | {"beats": beats}).encode())


def test_it_is_given_back(run):
    with hold(run, print):
        assert run.list("lease") == ["000001.json"]
    assert run.list("lease") == []


def test_a_second_owner_is_refused_in_one_line_while_the_first_lives(run):
    with hold(run, print), pytest.raises(LeaseError) as error:
        acquire(run, print)
    text = str(error.value)
    assert f"process {os.getpid()} on " in text and "--set run.dir" in text and "\n" not in text


def test_a_silent_owner_of_another_machine_loses_it_after_a_while(run):
    foreign(run)
    told = []
    with hold(run, told.append):
        assert run.list("lease") == ["000002.json"]
    assert len(told) == 1 and "process 7 on far" in told[0]


def test_a_dead_process_of_this_machine_loses_it_at_once(run, monkeypatch):
    code = "import os, sys; from capfilt.pipeline.rundir import lease; from capfilt.stages.storage.store import Store; " \
           "lease.acquire(Store(sys.argv[1]), print); os.kill(os.getpid(), 9)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, run.url], check=False, cwd=os.getcwd())
    assert run.list("lease") == ["000001.json"]
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 1000.0)
    with hold(run, print):
        assert run.list("lease") == ["000002.json"]


def test_another_process_with_the_same_number_is_not_the_owner(run):
    mine = lease.identity()
    foreign(run, **(mine | {"process": "0"}))
    with hold(run, print):
        assert run.list("lease") == ["000002.json"]


def test_of_many_who_take_over_one_wins(run):
    foreign(run)
    won, refused = [], []

    def attempt():
        try:
            won.append(acquire(run, lambda line: None))
        except LeaseError:
            refused.append(1)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and len(refused) == 7
    won[0].release()


def test_an_owner_that_slept_notices_that_it_has_been_replaced(run):
    held = acquire(run, print)
    foreign(run, number=2)
    held._thread.join(timeout=5)
    with pytest.raises(LeaseError, match=r"process 7 on far, since .*, has taken the run directory over"):
        held.check()
    held.release()
    assert run.list("lease") == ["000001.json", "000002.json"]  # what is another's now is left alone


def test_an_owner_that_slept_through_another_one_and_sees_a_third_with_its_number_stops(run):
    held = acquire(run, print)
    foreign(run, number=1, token="third", beats=3)
    held._thread.join(timeout=5)
    with pytest.raises(LeaseError, match="process 7 on far"):
        held.check()
    held.release()
    assert json.loads(run.read("lease/000001.json"))["token"] == "third"


def test_an_owner_that_slept_until_another_one_had_ended_stops(run):
    held = acquire(run, print)
    run.remove_file("lease/000001.json")
    held._thread.join(timeout=5)
    with pytest.raises(
        LeaseError, match="its lease is gone: another run has taken it over and ended"
    ) as error:
        held.check()
    assert "\n" not in str(error.value)
    held.release()
    assert run.list("lease") == []


def test_a_lease_that_is_lost_between_two_beats_is_not_given_back(run, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 1000.0)
    held = acquire(run, print)
    foreign(run, number=1, token="third")
    held._ended.set()
    held.release()
    assert run.list("lease") == ["000001.json"]


def test_a_store_that_is_away_for_a_moment_costs_nothing(run, monkeypatch):
    held = acquire(run, print)
    failures = iter([OSError("503"), OSError("503")])
    put = Store.put

    def shaky(self, name, data):
        error = next(failures, None)
        if error is not None:
            raise error
        return put(self, name, data)

    monkeypatch.setattr(Store, "put", shaky)
    deadline = threading.Event()
    deadline.wait(0.5)
    held.check()
    assert json.loads(run.read("lease/000001.json"))["beats"] > 0
    held.release()


def test_before_something_is_taken_away_the_store_is_asked(run, monkeypatch):
    """An owner wakes up; its heart has not beaten yet."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 1000.0)
    mine = acquire(run, print)
    mine.confirm()
    foreign(run, number=2, token="another")
    mine.check()
    with pytest.raises(LeaseError, match=r"process 7 on far, .* has taken the run directory over"):
        mine.confirm()
    run.remove_file("lease/000002.json")
    with pytest.raises(LeaseError):  # what is lost stays lost
        mine.confirm()
