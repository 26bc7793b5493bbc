"""The lease on an object store, where a heartbeat is a request. See test_lease.py for a local disk."""

import json

import pytest

from capfilt.pipeline.rundir import lease
from capfilt.pipeline.rundir.lease import LeaseError, acquire, hold
from capfilt.stages.storage.store import Store
from tests.s3_server import S3Fault


@pytest.fixture
def run_dir(healthy_s3, request, monkeypatch):
    """A run directory of its own on the server, with short intervals."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(lease, "LAPSE_SECONDS", 3.0)
    return Store(f"s3://bucket/{request.node.name}", {"endpoint_url": healthy_s3.endpoint})


def test_one_driver_at_a_time(run_dir):
    with hold(run_dir, print):
        assert run_dir.list("lease") == ["000001.json"]
        with pytest.raises(LeaseError, match="another run is at work there"):
            acquire(run_dir, print)
    assert run_dir.list("lease") == []


def test_a_terminated_owner_on_another_machine_loses_the_lease(run_dir):
    owner = {"host": "far", "pid": 7, "machine": "other", "process": "1", "since": "2026-01-01", "beats": 3}
    run_dir.put("lease/000004.json", json.dumps(owner).encode())
    lines = []
    with hold(run_dir, lines.append):
        assert run_dir.list("lease") == ["000005.json"]
    assert len(lines) == 1 and "process 7 on far" in lines[0]


def test_the_lease_is_held_while_requests_fail(s3, run_dir):
    s3.inject(S3Fault("lost_response", every=3), S3Fault("slow_down", every=3))
    with hold(run_dir, print) as held:
        assert held.number == 1
        held.check()


def test_the_lease_can_be_released_while_the_bucket_is_unavailable(s3, run_dir):
    held = acquire(run_dir, print)
    s3.inject(S3Fault("no_bucket"))
    held.release()
    held.check()
