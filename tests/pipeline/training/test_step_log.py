"""Logs of training steps: written once, repeated steps replaced, read by TensorBoard's format."""

import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from capfilt.pipeline.training import step_log
from capfilt.pipeline.training.step_log import StepLog, read_steps
from capfilt.stages.storage.store import Store


@pytest.fixture
def folder(tmp_path):
    return Store(str(tmp_path / "logs/pretrain.0"))


def row(step, loss):
    return {"step": step, "loss": loss, "lr": 1e-3, "time": 1000.0 + step}


def scalars(data):
    """(tag, step, value) of an event file: records of length, checksum, protobuf, checksum."""
    found, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        event = Event.FromString(data[at + 12 : at + 12 + length])
        found += [(v.tag, event.step, v.simple_value, event.wall_time) for v in event.summary.value]
        at += 12 + length + 4
    return found


def test_rows_come_back_in_order(folder):
    log = StepLog(folder, done=0)
    for step in range(1, 4):
        log.add(row(step, 1.0 / step))
    log.flush()
    log.add(row(4, 0.25))
    log.flush()
    log.flush()  # nothing new: no file
    assert read_steps(folder) == [row(step, 1.0 / step) for step in range(1, 5)]
    assert folder.list(suffix=".jsonl") == ["000000001.jsonl", "000000004.jsonl"]


def test_steps_taken_again_replace_those_of_before(folder):
    log = StepLog(folder, done=0)
    log.add(row(1, 9.0))
    log.add(row(2, 8.0))
    log.flush()
    log.add(row(3, 7.0))  # after the checkpoint of step 2
    log.flush()
    again = StepLog(folder, done=2)
    again.add(row(3, 7.5))
    again.flush()
    assert [r["loss"] for r in read_steps(folder)] == [9.0, 8.0, 7.5]
    assert len(folder.list()) == 4


def test_tensorboard_events_hold_the_same_numbers(folder):
    log = StepLog(folder, done=0)
    log.add(row(7, 0.5))
    log.flush()
    (name,) = [n for n in folder.list() if "tfevents" in n]
    assert sorted(scalars(folder.read(name))) == [
        ("loss", 7, pytest.approx(0.5), 1007.0),
        ("lr", 7, pytest.approx(1e-3), 1007.0),
    ]


def test_long_logs_flush_by_themselves(folder, monkeypatch):
    monkeypatch.setattr(step_log, "FLUSH_SECONDS", 0.0)
    monkeypatch.setattr(step_log, "FLUSH_SHARE", 0.0)
    log = StepLog(folder, done=0)
    log.add(row(1, 1.0))
    assert [r["step"] for r in read_steps(folder)] == [1]
