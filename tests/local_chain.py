"""Chains of stages and remote calls without Ray."""

import pyarrow as pa

from capfilt.cluster.chain.steps import FusedRunner, StageRunner, group_steps


def run_local(items, steps):
    """`cluster.chain.engine.run_chain` in this process: each item (one shard) through all steps, in order."""
    groups = group_steps(steps)
    runners = [FusedRunner(group) if len(group) > 1 else StageRunner(group[0]) for group in groups]
    for item in items:
        batch = pa.Table.from_pylist([item])
        for runner in runners:
            batch = runner(batch)
        yield from batch.to_pylist()


def map_local(function, items, *, cpus, gpus):
    """`cluster.remote.map_remote` in this process."""
    return [function(item) for item in items]


def call_local(sizing, calls):
    """`cluster.remote.resources_of_call` without Ray."""
    return {"cpus": 1.0, "gpus": 0.0}
