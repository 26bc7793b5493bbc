"""When a chain on a cluster that has lost nodes is stopped, and when not. The tests set the time."""

from types import SimpleNamespace

import pytest

from capfilt.cluster.chain import shrinking
from capfilt.cluster.chain.shrinking import (
    CHECK_INTERVAL_S,
    GRACE_S,
    ClusterShrunk,
    Demand,
    ShrinkWatch,
    shrink_callbacks,
)

EIGHT, FOUR = {"CPU": 8.0}, {"CPU": 4.0}
CHAIN = Demand(cpus=6.0, gpus=0.0)


def check_states(watch, *states):
    """Check states (seconds, finished tasks, resources) one after another."""
    for seconds, finished, resources in states:
        watch.check(1000.0 + seconds, finished, resources)


def test_a_chain_fits_if_both_resources_suffice():
    demand = Demand(cpus=6.0, gpus=2.0)
    assert demand.fits({"CPU": 6.0, "GPU": 2.0})
    assert not demand.fits({"CPU": 5.9, "GPU": 2.0})
    assert not demand.fits({"CPU": 6.0, "GPU": 1.9})
    assert not demand.fits({"CPU": 6.0})
    assert Demand(cpus=0.0, gpus=0.0).fits({})


def test_a_chain_that_no_longer_fits_and_makes_no_progress_is_stopped():
    watch = ShrinkWatch(CHAIN)
    check_states(watch, (0, 5, EIGHT), (10, 5, EIGHT), (12, 5, FOUR), (9 + GRACE_S, 5, FOUR))
    message = "^the cluster has 4 CPUs and 0 GPUs left, the actors of the chain need 6 CPUs and 0 GPUs$"
    with pytest.raises(ClusterShrunk, match=message):
        check_states(watch, (10 + GRACE_S, 5, FOUR))


def test_the_grace_time_is_a_minute():
    """As docs/operations.md says."""
    watch = ShrinkWatch(CHAIN)
    check_states(watch, (0, 5, EIGHT), (59, 5, FOUR))
    with pytest.raises(ClusterShrunk):
        check_states(watch, (60, 5, FOUR))


def test_a_chain_whose_tasks_finish_continues():
    watch = ShrinkWatch(CHAIN)
    check_states(watch, (0, 5, EIGHT), *((40 * n, 5 + n, FOUR) for n in range(1, 9)))
    with pytest.raises(ClusterShrunk):
        check_states(watch, (320 + GRACE_S, 13, FOUR))


def test_a_replacement_node_within_the_grace_time_saves_the_chain():
    watch = ShrinkWatch(CHAIN)
    check_states(watch, (0, 5, EIGHT), (50, 5, FOUR), (55, 5, EIGHT), (100, 5, FOUR), (110, 5, FOUR))


def test_a_chain_that_never_fitted_is_not_watched():
    assert shrink_callbacks(CHAIN, FOUR) == []


def test_an_execution_that_starts_after_the_loss_is_watched_too():
    """A chain over many shards consists of several executions, all in the size of the first."""
    (make,) = shrink_callbacks(CHAIN, EIGHT)
    watch = make()
    check_states(watch, (0, 0, FOUR))
    with pytest.raises(ClusterShrunk):
        check_states(watch, (GRACE_S, 0, FOUR))


def test_a_chain_on_gpus_waits_for_the_last_gpu_to_be_replaced():
    watch = ShrinkWatch(Demand(cpus=1.0, gpus=4.0))
    check_states(watch, (0, 5, {"CPU": 8, "GPU": 4}), (5, 5, {"CPU": 8}), (10 * GRACE_S, 5, {"CPU": 8}))
    check_states(watch, (10 * GRACE_S + 5, 5, {"CPU": 8, "GPU": 2}))
    with pytest.raises(ClusterShrunk, match=r"8 CPUs and 2 GPUs left, .* need 1 CPUs and 4 GPUs"):
        check_states(watch, (11 * GRACE_S + 5, 5, {"CPU": 8, "GPU": 2}))


def test_the_cluster_is_checked_at_intervals(monkeypatch):
    """Ray calls the callback several times a second; each check asks the cluster's head."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(shrinking.time, "monotonic", lambda: clock.now)
    asked = []
    monkeypatch.setattr(shrinking.ray, "cluster_resources", lambda: asked.append(clock.now) or FOUR)
    operators = [SimpleNamespace(metrics=SimpleNamespace(num_tasks_finished=n)) for n in (3, 4)]
    watch, checked = ShrinkWatch(CHAIN), []
    watch.check = lambda *state: checked.append(state)
    for elapsed in (
        0.0,
        CHECK_INTERVAL_S - 0.1,
        CHECK_INTERVAL_S,
        CHECK_INTERVAL_S + 0.1,
        2 * CHECK_INTERVAL_S,
    ):
        clock.now = 100.0 + elapsed
        watch.on_execution_step(SimpleNamespace(_topology=operators))
    times = [100.0 + CHECK_INTERVAL_S, 100.0 + 2 * CHECK_INTERVAL_S]
    assert asked == times and checked == [(now, 7, FOUR) for now in times]
