"""When a chain ends early because its cluster has changed, and when not. The tests set the time."""

from types import SimpleNamespace

import pytest

from capfilt.cluster.chain import resizing as module
from capfilt.cluster.chain.ray_internals import ExecutionState
from capfilt.cluster.chain.resizing import (
    CHECK_INTERVAL_S,
    GRACE_S,
    SETTLE_S,
    ChainStalled,
    ClusterShrunk,
    Demand,
    Resizing,
    grace,
    patience,
)
from capfilt.cluster.machines import FETCH_CPU, LEAVING

EIGHT, FOUR = {"CPU": 8.0}, {"CPU": 4.0}
CHAIN = Demand(cpus=6.0, gpus=0.0)
AFTER = 600.0


class Pass:
    """A pass that began at second 0, on a chain that grows on more than eight CPUs."""

    def __init__(self, demand=CHAIN, *, fitted=True, patience=1e9, grace=GRACE_S):
        self.drained = 0
        self.state = Resizing(
            demand,
            fitted,
            can_grow=lambda resources: resources.get("CPU", 0) > 8 or resources.get("GPU", 0) > 4,
            drain=self.drain,
            after=AFTER,
            patience=lambda: patience,
            grace=lambda: grace,
            started=1000.0,
        )

    def drain(self):
        self.drained += 1

    def check(self, *states):
        """Check states (seconds, finished tasks, resources) one after another."""
        for seconds, finished, resources in states:
            self.state.check(1000.0 + seconds, finished, resources)


def test_a_chain_fits_if_both_resources_suffice():
    demand = Demand(cpus=6.0, gpus=2.0)
    assert demand.fits({"CPU": 6.0, "GPU": 2.0})
    assert not demand.fits({"CPU": 5.9, "GPU": 2.0})
    assert not demand.fits({"CPU": 6.0, "GPU": 1.9})
    assert not demand.fits({"CPU": 6.0})
    assert Demand(cpus=0.0, gpus=0.0).fits({})
    fetches = {"CPU": 6.0, FETCH_CPU: 2.0}
    assert FETCHES.fits(fetches) and not FETCHES.fits(fetches | {FETCH_CPU: 1.9})


def test_settings_are_those_of_the_docs():
    assert (SETTLE_S, GRACE_S) == (30.0, 60.0)


def test_a_chain_that_no_longer_fits_drains_after_a_while():
    early = Pass()
    early.check((0, 5, EIGHT), (10, 6, FOUR), (39, 7, FOUR))
    assert early.drained == 0 and early.state.reason is None
    early.check((40, 8, FOUR), (41, 9, FOUR), (50, 10, EIGHT))
    assert early.drained == 1, "once"
    assert early.state.reason == (
        "the cluster has 4 CPUs and 0 GPUs left, the actors of the chain need 6 CPUs and 0 GPUs"
    )


def test_a_replacement_in_time_saves_the_pass():
    saved = Pass()
    saved.check((0, 5, EIGHT), (10, 6, FOUR), (30, 7, EIGHT), (35, 8, FOUR), (64, 9, FOUR))
    assert saved.drained == 0
    saved.check((65, 10, FOUR))
    assert saved.drained == 1


def test_a_pass_drains_at_once_for_machines_that_leave():
    warned = Pass()
    warned.check((0, 5, EIGHT), (10, 6, EIGHT | {LEAVING: 1.0}))
    assert warned.drained == 0, "what stays suffices"
    warned.check((12, 7, FOUR | {LEAVING: 1.0}))
    assert warned.drained == 1
    assert warned.state.reason == (
        "the cluster has 4 CPUs and 0 GPUs left (without the machines that will be taken away: 1), "
        "the actors of the chain need 6 CPUs and 0 GPUs"
    )


def test_a_chain_that_no_longer_fits_and_finishes_nothing_is_stopped():
    stopped = Pass()
    stopped.check((0, 5, EIGHT), (10, 5, EIGHT), (12, 5, FOUR), (GRACE_S - 1, 5, FOUR))
    with pytest.raises(ClusterShrunk, match=r"^the cluster has 4 CPUs and 0 GPUs left"):
        stopped.check((GRACE_S, 5, FOUR))


def test_a_chain_of_slow_shards_is_given_more_time_to_finish_them():
    slow = Pass(grace=300.0)
    slow.check((0, 5, EIGHT), (10, 5, FOUR), (299, 5, FOUR))
    assert slow.drained == 1
    with pytest.raises(ClusterShrunk):
        slow.check((300, 5, FOUR))


def test_a_draining_chain_whose_tasks_finish_continues():
    draining = Pass()
    draining.check((0, 5, EIGHT), *((40 * n, 5 + n, FOUR) for n in range(1, 9)))
    assert draining.drained == 1
    with pytest.raises(ClusterShrunk):
        draining.check((320 + GRACE_S, 13, FOUR))


def test_a_chain_that_never_fitted_is_not_watched_for_lost_nodes():
    unwatched = Pass(fitted=False)
    unwatched.check((0, 5, FOUR), (10 * GRACE_S, 5, FOUR))
    assert unwatched.drained == 0


def test_a_chain_on_gpus_waits_for_the_last_gpu_to_be_replaced():
    gpus = Pass(Demand(cpus=1.0, gpus=4.0))
    gpus.check((0, 5, {"CPU": 8, "GPU": 4}), (5, 5, {"CPU": 8}), (10 * GRACE_S, 5, {"CPU": 8}))
    assert gpus.drained == 0
    gpus.check((10 * GRACE_S + 5, 5, {"CPU": 8, "GPU": 2}))
    with pytest.raises(ClusterShrunk, match=r"8 CPUs and 2 GPUs left, .* need 1 CPUs and 4 GPUs"):
        gpus.check((11 * GRACE_S + 5, 5, {"CPU": 8, "GPU": 2}))


SIXTEEN = {"CPU": 16.0}


def test_a_larger_cluster_ends_the_pass_once_it_has_run_long_enough():
    grown = Pass()
    grown.check((0, 5, EIGHT), (10, 6, SIXTEEN), (AFTER - 1, 7, SIXTEEN))
    assert grown.drained == 0
    grown.check((AFTER, 8, SIXTEEN))
    assert grown.drained == 1 and grown.state.reason == "the cluster has 16 CPUs and 0 GPUs now"


def test_nodes_that_join_one_after_another_are_awaited():
    joining = Pass()
    joining.check((AFTER, 5, EIGHT), (AFTER + 10, 6, SIXTEEN), (AFTER + 9 + SETTLE_S, 7, SIXTEEN))
    assert joining.drained == 0
    joining.check((AFTER + 10 + SETTLE_S, 8, SIXTEEN))
    assert joining.drained == 1


def test_growth_that_does_not_last_is_no_reason():
    brief = Pass()
    brief.check(
        (AFTER, 5, SIXTEEN), (AFTER + 20, 6, EIGHT), (AFTER + 40, 7, SIXTEEN), (AFTER + 69, 8, SIXTEEN)
    )
    assert brief.drained == 0
    brief.check((AFTER + 70, 9, SIXTEEN))
    assert brief.drained == 1


def test_a_chain_that_fits_and_finishes_nothing_for_longer_than_the_patience_is_stalled():
    stalled = Pass(patience=900.0)
    stalled.check((0, 5, EIGHT), (100, 6, EIGHT), (999, 6, EIGHT))
    with pytest.raises(ChainStalled, match=r"^no task of the chain has finished for 15 minutes$"):
        stalled.check((1000, 6, EIGHT))


def test_waiting_for_a_gpu_is_no_stall():
    waiting = Pass(Demand(cpus=1.0, gpus=4.0), patience=100.0)
    waiting.check((0, 5, {"CPU": 8, "GPU": 4}), (5000, 5, {"CPU": 8}), (5050, 5, {"CPU": 8, "GPU": 4}))


FETCHES = Demand(cpus=3.0, gpus=0.0, fetch_cpus=2.0)


def test_a_chain_waits_for_the_last_machine_that_fetches_to_be_replaced():
    pool = Pass(FETCHES, patience=100.0)
    gone, smaller = EIGHT | {FETCH_CPU: 0}, EIGHT | {FETCH_CPU: 1}
    pool.check((0, 5, EIGHT | {FETCH_CPU: 4}), (5, 5, gone), (5000, 5, gone))
    assert pool.drained == 0
    pool.check((5050, 5, smaller), (5080, 6, smaller))
    assert pool.drained == 1, "one that is smaller than the lost ones"


def test_the_cluster_is_checked_at_intervals(monkeypatch):
    """Ray calls the callback several times a second; each check asks the cluster's head."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)
    asked, checked = [], []
    resizing = Pass().state
    monkeypatch.setattr(resizing, "measure", lambda: asked.append(clock.now) or FOUR)
    waiting = []
    monkeypatch.setattr(resizing, "check", lambda *state: checked.append(state))
    monkeypatch.setattr(resizing, "on_waiting", waiting.append)
    resizing._last_look = 100.0
    for elapsed in (
        0.0,
        CHECK_INTERVAL_S - 0.1,
        CHECK_INTERVAL_S,
        CHECK_INTERVAL_S + 0.1,
        2 * CHECK_INTERVAL_S,
    ):
        clock.now = 100.0 + elapsed
        resizing.look(ExecutionState(7, (2, 0)))
    times = [100.0 + CHECK_INTERVAL_S, 100.0 + 2 * CHECK_INTERVAL_S]
    assert asked == times and checked == [(now, 7, FOUR) for now in times] and waiting == [(2, 0)] * 2


@pytest.mark.parametrize(("slowest", "seconds"), [(1.0, 900.0), (225.0, 900.0), (226.0, 904.0)])
@pytest.mark.parametrize("is_busy", [False, True])
def test_patience_follows_the_slowest_shard(slowest, seconds, is_busy):
    assert patience(slowest, is_busy) == seconds


def test_before_the_first_shard_only_a_chain_that_does_nothing_is_stalled():
    assert patience(0.0, is_busy=False) == 900.0
    assert patience(0.0, is_busy=True) == float("inf")


@pytest.mark.parametrize(("slowest", "seconds"), [(0.0, 60.0), (60.0, 60.0), (61.0, 61.0)])
def test_grace_follows_the_slowest_shard(slowest, seconds):
    assert grace(slowest) == seconds
