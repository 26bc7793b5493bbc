"""A chain whose cluster has grown: what is in flight is finished, the rest is left to the next pass."""

import time
from functools import partial

import ray

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.chain import resizing as module
from capfilt.cluster.chain.engine import chain_demand, run_chain
from capfilt.cluster.chain.resizing import Resizing
from capfilt.cluster.chain.steps import Step

SHARDS, SECONDS = 200, 0.2
"""Ray reads all shards at once; the slow step has work for 40 s."""


class Passes:
    def __call__(self, batch):
        return batch


class Slow:
    def __init__(self, seconds=SECONDS):
        self.seconds = seconds

    def __call__(self, batch):
        time.sleep(self.seconds)
        return batch


def test_a_pass_ends_early_and_the_next_one_does_the_rest(ray_session, monkeypatch):
    monkeypatch.setattr(module, "SETTLE_S", 0.0)
    status = StatusBoard().for_node("n")
    steps = [
        Step(name="read", make=Passes, kind="read", begins=True, node_status=status),
        Step(name="slow", make=Slow, actors=1, cpus=0.5, begins=True, node_status=status),
        Step(name="after", make=Passes, actors=1, cpus=0.5, node_status=status),
    ]
    done = []

    def run_pass(shards, **grows):
        resizing = Resizing(
            chain_demand(steps), True, drain=partial(status.set_draining, True), patience=lambda: 1e9, **grows
        )
        items = [{"source": "web", "shard": shard} for shard in shards]
        done.extend(row["shard"] for row in run_chain(items, steps, resizing=resizing))
        return resizing.reason

    reason = run_pass(range(SHARDS), can_grow=lambda resources: len(done) >= 3, after=0.0)
    assert reason is not None and reason.endswith(" GPUs now")
    first = len(done)
    assert 3 <= first < SHARDS and len(set(done)) == first
    status.set_draining(False)
    rest = sorted(set(range(SHARDS)) - set(done))
    assert run_pass(rest[:5], can_grow=lambda resources: False, after=0.0) is None
    assert sorted(done[first:]) == rest[:5]


def test_actors_of_a_finished_stage_free_their_resources_while_a_later_one_works(ray_session):
    """Ray Data releases them one by one once the stage has no more input."""
    all_cpus = ray.cluster_resources()["CPU"]
    steps = [
        Step(name="read", make=Passes, kind="read"),
        Step(name="fast", make=Passes, actors=2, cpus=0.75),
        Step(name="slow", make=partial(Slow, 1.0), actors=1, cpus=0.25),
    ]
    free = []
    for _ in run_chain([{"shard": shard} for shard in range(8)], steps):
        free.append(ray.available_resources().get("CPU", 0.0))
    assert max(free) == all_cpus - 0.25, "only the slow stage holds an actor"
