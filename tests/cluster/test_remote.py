"""Calls on the cluster: what they request, and their threads. Without a running Ray."""

from types import SimpleNamespace

import pytest
import torch

import capfilt.cluster.remote as module
from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.remote import map_remote, resources_of_call
from capfilt.cluster.sizing import divide_resources


def test_map_remote_requests_resources_for_each_call(monkeypatch):
    requested = {}

    def remote(**options):
        requested.update(options)
        return lambda function: SimpleNamespace(remote=function)

    monkeypatch.setattr(module.ray, "remote", remote)
    monkeypatch.setattr(module.ray, "get", list)
    assert map_remote(len, ["a", "bcd"], cpus=2.0, gpus=0.5) == [1, 3]
    assert (requested["num_cpus"], requested["num_gpus"]) == (2.0, 0.5)


@pytest.mark.parametrize(
    ("machines", "calls", "cpus"),
    [
        ([4], 1, 3),
        ([2], 1, 1),
        ([8], 1, 6),
        ([8], 2, 3),
        ([8], 3, 2),
        ([8], 100, 1),
        ([10], 1, 7),
        ([11], 1, 8),
        ([64], 1, 8),
        ([64], 7, 6),
        ([16, 4], 1, 3),
        ([16, 4], 2, 3),
        ([16, 4], 3, 1),
        ([0, 8], 1, 6),
        ([0], 1, 1),
        ([], 1, 1),
    ],
)
def test_a_call_without_gpu_gets_its_part_of_the_smallest_machine(monkeypatch, machines, calls, cpus):
    assert resources_on(monkeypatch, machines, calls, cores=64) == {"cpus": float(cpus), "gpus": 0.0}


@pytest.mark.parametrize(("machines", "cpus"), [([4], 2), ([16], 2), ([4, 4], 3)])
def test_a_call_has_no_more_threads_than_the_only_machine_has_cores(monkeypatch, machines, cpus):
    """An embedded Ray believes in four CPUs at least."""
    assert resources_on(monkeypatch, machines, 1, cores=2)["cpus"] == cpus


def resources_on(monkeypatch, machines, calls, cores):
    nodes = [{"Alive": True, "Resources": {"CPU": float(number)} if number else {}} for number in machines]
    dead = {"Alive": False, "Resources": {"CPU": 1.0}}
    monkeypatch.setattr(module.ray, "nodes", lambda: [*nodes, dead])
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(cores)))
    return resources_of_call(divide_resources(ClusterConfig(), cpus=4, gpus=0), calls)


@pytest.mark.parametrize(("gpus", "requested"), [(0.5, 0.5), (1, 1.0), (8, 1.0)])
def test_a_call_requests_a_gpu_where_there_is_one(gpus, requested):
    sizing = divide_resources(ClusterConfig(), cpus=16, gpus=gpus)
    assert resources_of_call(sizing, 1) == {"cpus": 1.0, "gpus": requested}


@pytest.mark.parametrize(("variable", "threads"), [("3", 3), ("1", 1), ("", 2), ("4,2", 2)])
def test_torch_has_the_threads_that_ray_sets_also_in_a_process_that_was_used_before(
    monkeypatch, variable, threads
):
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert module._call_with_threads(lambda _: torch.get_num_threads(), None) == threads
    finally:
        torch.set_num_threads(before)
