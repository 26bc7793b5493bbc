"""What capfilt needs of Ray Data beyond its public form, on the installed Ray."""

import time
from contextlib import suppress

import pyarrow as pa
import pytest
import ray

from capfilt.cluster.chain.losses import PassEnded
from capfilt.cluster.chain.ray_internals import map_whole_blocks, watch_executions
from capfilt.cluster.machines import notified_machines

SIZES = [5, 1, 3, 8, 2, 1]


def count_rows(table):
    return pa.table({"rows": [table.num_rows]})


def blocks():
    return ray.data.from_arrow([pa.table({"x": list(range(size))}) for size in SIZES])


def test_blocks_are_mapped_whole_and_the_watch_sees_them(ray_session):
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    seen = []
    watch_executions(context, seen.append)
    with ray.data.DataContext.current(context):
        counted = map_whole_blocks(blocks(), count_rows, num_cpus=0.5)
        rows = map_whole_blocks(counted, count_rows, num_cpus=0.25).take_all()
    assert [row["rows"] for row in rows] == [1] * len(SIZES)
    assert {len(state.waiting) for state in seen} == {2}, "one for each map"
    assert max(state.finished for state in seen) <= 2 * len(SIZES)
    finished = [state.finished for state in seen]
    assert finished == sorted(finished) and seen[0].waiting[0] <= len(SIZES)


def test_no_machine_is_about_to_be_taken_away(ray_session):
    """`tests/faults/test_elastic.py` has a cluster with one that is."""
    assert list(notified_machines()) == []


def wait_for_cpus(condition, seconds=30.0):
    """Whether the number of free CPUs meets a condition within this time."""
    deadline = time.monotonic() + seconds
    while not (met := condition(ray.available_resources().get("CPU", 0.0))) and time.monotonic() < deadline:
        time.sleep(0.2)
    return met


class Hanging:
    """An actor that never finishes its first task, and cannot be interrupted, as in a call of CUDA."""

    def __call__(self, table):
        while True:
            with suppress(BaseException):
                time.sleep(1000)


def test_actors_of_an_execution_that_fails_free_what_they_hold(ray_session):
    """Also an actor that hangs, and one that waits for what the other one holds."""
    cpus = ray.cluster_resources()["CPU"]
    assert wait_for_cpus(lambda free: free == cpus), "of the tests before"
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    began = time.monotonic()

    def watch(state):
        if time.monotonic() - began > 60 or state.waiting[0] < len(SIZES):
            raise PassEnded("it hangs")

    watch_executions(context, watch)
    with ray.data.DataContext.current(context), pytest.raises(PassEnded, match="it hangs"):
        pool = ray.data.ActorPoolStrategy(size=2)
        map_whole_blocks(blocks(), Hanging, num_cpus=cpus - 0.5, compute=pool).take_all()
    assert wait_for_cpus(lambda free: free == cpus)


def test_the_public_form_still_needs_a_batch_size_on_gpus(ray_session):
    """Once it does not, it replaces the private one."""
    map_whole_blocks(blocks(), count_rows, num_gpus=1)  # is not executed
    with pytest.raises(ValueError, match="batch_size"):
        blocks().map_batches(count_rows, batch_size=None, batch_format="pyarrow", num_gpus=1)
