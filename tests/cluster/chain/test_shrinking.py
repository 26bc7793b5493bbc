"""When a chain on a cluster that lost nodes is ended, and when it is left alone. By hand; times are told, not taken."""

import pytest

from capfilt.cluster.chain.engine import Step, demand_of
from capfilt.cluster.chain.shrinking import PATIENCE_S, ClusterShrunk, Demand, ShrinkWatch, watches_of

EIGHT, FOUR = {"CPU": 8.0}, {"CPU": 4.0}
CHAIN = Demand(cpus=6.0, gpus=0.0)


def looks(watch, *seen):
    """Look at (seconds, finished tasks, resources)."""
    for seconds, finished, resources in seen:
        watch.look(1000.0 + seconds, finished, resources)


def test_what_the_actors_of_a_chain_ask_for():
    steps = [
        Step(name="read", make=object, kind="read"),
        Step(name="fetch", make=object, actors=2, cpus=0.5),
        Step(name="caption", make=object, actors=3, cpus=0.0, gpus=0.5),
    ]
    assert demand_of(steps) == Demand(cpus=1.0, gpus=1.5)


def test_a_chain_that_fits_no_more_and_gets_no_further_is_ended():
    watch = ShrinkWatch(CHAIN)
    looks(watch, (0, 5, EIGHT), (10, 5, EIGHT), (12, 5, FOUR), (9 + PATIENCE_S, 5, FOUR))
    with pytest.raises(
        ClusterShrunk, match="has 4 CPUs and 0 GPUs left, and the chain's actors ask for 6 and 0"
    ):
        looks(watch, (10 + PATIENCE_S, 5, FOUR))


def test_while_tasks_end_it_goes_on():
    watch = ShrinkWatch(CHAIN)
    looks(watch, (0, 5, EIGHT), *((40 * n, 5 + n, FOUR) for n in range(1, 9)))
    with pytest.raises(ClusterShrunk):
        looks(watch, (320 + PATIENCE_S, 13, FOUR))


def test_a_node_that_comes_in_time_saves_it():
    watch = ShrinkWatch(CHAIN)
    looks(watch, (0, 5, EIGHT), (50, 5, FOUR), (55, 5, EIGHT), (100, 5, FOUR), (110, 5, FOUR))


def test_a_cluster_that_never_had_room_is_left_alone():
    assert watches_of(CHAIN, FOUR) == []


def test_an_execution_that_begins_after_the_loss_is_watched_too():
    """A chain of many shards is several executions, in the size of the first."""
    (make,) = watches_of(CHAIN, EIGHT)
    watch = make()
    looks(watch, (0, 0, FOUR))
    with pytest.raises(ClusterShrunk):
        looks(watch, (PATIENCE_S, 0, FOUR))


def test_a_chain_on_gpus_waits_for_the_last_one_to_come_back():
    watch = ShrinkWatch(Demand(cpus=1.0, gpus=4.0))
    looks(watch, (0, 5, {"CPU": 8, "GPU": 4}), (5, 5, {"CPU": 8}), (10 * PATIENCE_S, 5, {"CPU": 8}))
    looks(watch, (10 * PATIENCE_S + 5, 5, {"CPU": 8, "GPU": 2}))
    with pytest.raises(ClusterShrunk, match="8 CPUs and 2 GPUs left, and the chain's actors ask for 1 and 4"):
        looks(watch, (11 * PATIENCE_S + 5, 5, {"CPU": 8, "GPU": 2}))
