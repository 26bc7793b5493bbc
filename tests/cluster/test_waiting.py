"""Waiting for the machines of a cluster; the tests set the time and the resources."""

from types import SimpleNamespace

import pytest

from capfilt.cluster import waiting as module
from capfilt.cluster.config import ClusterConfig, ClusterError, WaitConfig
from capfilt.cluster.machines import FETCH_CPU
from capfilt.cluster.waiting import POLL_S, describe_lack, wait_for_resources


@pytest.fixture
def cluster(monkeypatch):
    """A cluster that gets the resources of each step; records what is asked for and shown."""
    seen = SimpleNamespace(now=0.0, steps=[], requests=[], lines=[])

    def sleep(seconds):
        seen.now += seconds
        if len(seen.steps) > 1:
            seen.steps.pop(0)

    monkeypatch.setattr(module, "measure_machines", lambda config: seen.steps[0])
    monkeypatch.setattr(module, "request_resources", lambda bundles: seen.requests.append(bundles))
    monkeypatch.setattr(module.time, "monotonic", lambda: seen.now)
    monkeypatch.setattr(module.time, "sleep", sleep)
    return seen


def wait(cluster, wanted, stopping=lambda: False):
    wait_for_resources(ClusterConfig(wait_for=wanted), cluster.lines.append, stopping)


def test_without_the_key_nothing_is_awaited(cluster):
    cluster.steps = [{}]
    wait(cluster, None)
    assert cluster.now == 0 and cluster.requests == cluster.lines == []


def test_a_cluster_that_has_everything_is_neither_awaited_nor_asked(cluster):
    cluster.steps = [{"CPU": 4.0, "GPU": 2.0}]
    wait(cluster, WaitConfig(gpus=2, cpus=4))
    assert cluster.now == 0 and cluster.requests == cluster.lines == []


def test_machines_are_asked_for_until_they_have_come(cluster):
    cluster.steps = [{"CPU": 4.0}, {"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 2.0}]
    wait(cluster, WaitConfig(gpus=2))
    assert cluster.now == 2 * POLL_S
    assert cluster.requests == [[{"GPU": 1.0}, {"GPU": 1.0}], []], "the request ends with the wait"
    assert cluster.lines == ["waiting: the cluster has 0 of 2 GPUs", "waiting: the cluster has 1 of 2 GPUs"]


def test_the_time_is_limited(cluster):
    cluster.steps = [{"CPU": 1.0}]
    line = r"^the cluster has 0 of 2 GPUs and 1 of 8 CPUs after 60 s \(cluster.wait_for\); .* same command"
    with pytest.raises(ClusterError, match=line):
        wait(cluster, WaitConfig(gpus=2, cpus=8, seconds=60))
    assert cluster.now == 60 and cluster.requests[-1] == []


def test_a_run_that_stops_no_longer_waits(cluster):
    cluster.steps = [{"CPU": 1.0}]
    wait(cluster, WaitConfig(gpus=2), stopping=lambda: cluster.now >= 3 * POLL_S)
    assert cluster.now == 3 * POLL_S and cluster.requests[-1] == []


@pytest.mark.parametrize(
    ("resources", "lack"),
    [
        ({"CPU": 8.0, "GPU": 2.0}, None),
        ({"CPU": 7.5, "GPU": 2.0}, "the cluster has 7.5 of 8 CPUs"),
        ({"CPU": 8.0, "GPU": 1.0}, "the cluster has 1 of 2 GPUs"),
        ({}, "the cluster has 0 of 2 GPUs and 0 of 8 CPUs"),
        ({"CPU": 8.0, "GPU": 2.0, FETCH_CPU: 1.0}, None),
        (
            {"CPU": 8.0, "GPU": 2.0, FETCH_CPU: 0.0},
            "the cluster has no machine with the labels net=web,pool=download",
        ),
    ],
)
def test_what_lacks_is_named(cluster, resources, lack):
    cluster.steps = [resources]
    labels = {"net": "web", "pool": "download"}
    config = ClusterConfig(wait_for=WaitConfig(gpus=2, cpus=8), fetch_labels=labels)
    assert describe_lack(config) == lack
