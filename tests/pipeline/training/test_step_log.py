"""Logs of training steps: files are written once, repeated steps replaced, TensorBoard reads them."""

import struct
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

from capfilt.pipeline.training import step_log
from capfilt.pipeline.training.step_log import FLUSH_SECONDS, FLUSH_SHARE, StepLog
from capfilt.stages.storage.store import Store
from tests.step_logs import read_steps


@pytest.fixture
def folder(tmp_path):
    return Store(str(tmp_path / "logs/pretrain.0"))


def row(step, loss):
    return {"step": step, "loss": loss, "lr": 1e-3, "time": 1000.0 + step}


def read_scalars(data):
    """(tag, step, value, time) of an event file: records of length, checksum, protobuf, checksum."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [(v.tag, event.step, v.simple_value, event.wall_time) for v in event.summary.value]
        at += 12 + length + 4
    return found


def test_rows_are_read_in_order(folder):
    log = StepLog(folder, steps_done=0)
    for step in range(1, 4):
        log.add(row(step, 1.0 / step))
    log.flush()
    log.add(row(4, 0.25))
    log.flush()
    log.flush()  # nothing new: no file
    assert read_steps(folder) == [row(step, 1.0 / step) for step in range(1, 5)]
    assert folder.list(suffix=".jsonl") == ["000000001.jsonl", "000000004.jsonl"]


def test_repeated_steps_replace_earlier_ones(folder):
    log = StepLog(folder, steps_done=0)
    log.add(row(1, 9.0))
    log.add(row(2, 8.0))
    log.flush()
    log.add(row(3, 7.0))  # after the checkpoint of step 2
    log.flush()
    resumed = StepLog(folder, steps_done=2)
    resumed.add(row(3, 7.5))
    resumed.flush()
    assert [r["loss"] for r in read_steps(folder)] == [9.0, 8.0, 7.5]
    assert len(folder.list()) == 4


def test_files_of_steps_that_are_done_are_kept(folder):
    log = StepLog(folder, steps_done=0)
    log.add(row(1, 9.0))
    log.flush()
    log.add(row(2, 8.0))
    log.flush()
    folder.put("notes.txt", b"by hand")
    StepLog(folder, steps_done=2)
    assert [r["step"] for r in read_steps(folder)] == [1, 2] and folder.exists("notes.txt")
    StepLog(folder, steps_done=1)
    assert [r["step"] for r in read_steps(folder)] == [1]
    assert sorted(folder.list()) == ["000000001.jsonl", "events.out.tfevents.000000001", "notes.txt"]


def test_tensorboard_events_hold_the_same_numbers(folder):
    log = StepLog(folder, steps_done=0)
    log.add(row(7, 0.5))
    log.flush()
    (name,) = [n for n in folder.list() if "tfevents" in n]
    assert sorted(read_scalars(folder.read(name))) == [
        ("loss", 7, pytest.approx(0.5), 1007.0),
        ("lr", 7, pytest.approx(1e-3), 1007.0),
    ]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(step_log.time, "monotonic", lambda: clock.now)
    return clock


def flush_times(folder, clock, start, pause, count):
    """Seconds after the start at which a log that gets a row every `pause` seconds writes a file."""
    log, times = StepLog(folder, steps_done=0), []
    clock.now += start
    for step in range(1, count + 1):
        clock.now += pause
        before = len(folder.list())
        log.add(row(step, 1.0))
        if len(folder.list()) > before:
            times.append(clock.now - 1000.0)
    return times


def test_a_young_log_is_written_at_a_fixed_interval(folder, clock):
    pause = FLUSH_SECONDS / 4
    assert flush_times(folder, clock, 0.0, pause, 16) == [5 * pause, 10 * pause, 15 * pause]


def test_the_intervals_of_an_old_log_are_a_share_of_its_age(folder, clock):
    age = 100 * FLUSH_SECONDS / FLUSH_SHARE
    interval = FLUSH_SHARE * age
    first, second, third = flush_times(folder, clock, age, interval / 4, 13)
    assert first == age + interval / 4  # nothing was written before
    assert second - first == third - second == 5 * interval / 4
