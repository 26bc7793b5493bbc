"""Run stages as one Ray Data chain, with one block per shard from end to end.

The form follows from what Ray 2.60 guarantees: with `target_max_block_size=None` and row-preserving stages a
task emits exactly one block, so a task that dies is retried as a whole and its output counts once. Without
both, the death of a worker loses and duplicates rows without an error. All retries are bounded; Ray's default
is to retry a crashing task forever.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from capfilt.cluster.chain.losses import losses_named
from capfilt.cluster.chain.ray_internals import map_whole_blocks, watch_executions
from capfilt.cluster.chain.resizing import Demand, Resizing
from capfilt.cluster.chain.steps import FusedRunner, StageRunner, Step, group_steps, run_task
from capfilt.cluster.config import ClusterConfig
from capfilt.cluster.sizing import CPU_SHARE, Sizing

MAX_RESTARTS = 20
"""Restarts of an actor over the lifetime of a chain. Ray's default is unlimited."""
MAX_TASK_RETRIES = 3
"""Retries of a task whose process died; then its shard is reported as failed. Ray's default is unlimited."""
MOST_CPUS_PER_CALL = 8
"""CPUs that a call of a model may request where there is no GPU; more of them on one machine may be long in
coming where other programs share the cluster."""
NO_PROGRESS_S = 6 * 3600
"""Seconds without a finished shard after which Ray ends an execution: half an hour, its default, is too short
for a large shard. It is for processes that never start; `Resizing` ends an execution that has stalled."""


def run_chain(
    items: Sequence[dict[str, Any]],
    steps: Sequence[Step],
    *,
    segment: int = ClusterConfig.segment,
    name: str = "chain",
    resizing: Resizing | None = None,
) -> Iterator[dict[str, Any]]:
    """Run every item (one shard each) through the steps and yield the rows that the last step returns.

    A shard whose task failed after all retries is missing from the results. The caller must compare them with
    `items`, because Ray reports an execution with dropped blocks as a success.

    Args:
        items: what the first step turns into rows; one task and one block each.
        steps: the reader, the stages, the writer.
        segment: items per Dataset execution, which bounds the state of the driver.
        name: of the executions, in Ray's logs and dashboard.
        resizing: ends the chain early when the cluster has changed; shards that were not begun are then
            missing from the results, too.

    Raises:
        PassEnded: nodes were lost (`MachinesLost`), for good (`ClusterShrunk`), or nothing finishes any more.
    """
    pending = iter(items)
    while (resizing is None or resizing.reason is None) and (part := list(islice(pending, segment))):
        context = chain_context(len(part))
        if resizing is not None:
            watch_executions(context, resizing.look)
        with DataContext.current(context), losses_named():
            dataset = ray.data.from_items(part, override_num_blocks=len(part))
            for group in group_steps(steps):
                dataset = _apply(dataset, group)
            dataset.set_name(name)
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from batch.to_pylist()


def chain_demand(steps: Sequence[Step]) -> Demand:
    """Resources that all actors of a chain request together."""
    owners = [step for step in steps if not step.fused]
    return Demand(
        cpus=sum(step.actors * step.cpus for step in owners),
        gpus=sum(step.actors * step.gpus for step in owners),
        fetch_cpus=sum(step.actors * step.cpus for step in owners if step.labels),
    )


def chain_context(shards: int) -> DataContext:
    """Ray Data's settings for a chain over so many shards: whole blocks, bounded retries, no progress bars.

    Ray aborts the execution if more than 1 % of the shards fail, plus three if there are more than three.
    """
    context = DataContext.get_current().copy()
    context.target_max_block_size = None
    context.max_errored_blocks = shards // 100 + (3 if shards > 3 else 0)
    context.actor_init_retry_on_errors = True
    context.max_consecutive_actor_init_deaths = 3
    context.execution_no_progress_timeout_s = NO_PROGRESS_S
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    return context


def _apply(dataset: ray.data.Dataset, group: tuple[Step, ...]) -> ray.data.Dataset:
    """Map the blocks of a dataset by the steps of one kind of process."""
    step = group[0]
    common: dict[str, Any] = {"num_cpus": step.cpus}
    if step.gpus:
        common["num_gpus"] = step.gpus
    if step.labels:
        common["label_selector"] = dict(step.labels)
    if step.actors:
        runner, argument = (StageRunner, step) if len(group) == 1 else (FusedRunner, group)
        return map_whole_blocks(
            dataset,
            runner,
            fn_constructor_args=(argument,),
            compute=ActorPoolStrategy(size=step.actors),
            max_restarts=MAX_RESTARTS,
            max_task_retries=MAX_TASK_RETRIES,
            **common,
        )
    return map_whole_blocks(
        dataset,
        run_task,
        fn_args=(step,),
        compute=TaskPoolStrategy(),
        max_retries=MAX_TASK_RETRIES,
        **common,
    )


def map_remote(
    function: Callable[[Any], Any], items: Sequence[Any], *, cpus: float, gpus: float
) -> list[Any]:
    """`[function(item) for item in items]`, with each call in a process of its own on the cluster.

    Args:
        function: picklable.
        items: picklable.
        cpus, gpus: requested by each call (`resources_of_call`).

    Raises:
        ray.exceptions.RayTaskError: with the function's own error inside.
    """
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_TASK_RETRIES)(_call_with_threads)
    return list(ray.get([remote.remote(function, item) for item in items]))


def resources_of_call(sizing: Sizing, calls: int) -> dict[str, float]:
    """What each of several calls of a model that run side by side requests (`map_remote`).

    Without a GPU these are several CPUs, as far as the smallest machine has them for all of its calls: torch
    has as many threads as its process requests CPUs.
    """
    if sizing.gpus:
        return {"cpus": 1.0, "gpus": min(1.0, sizing.gpus)}
    machines = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
    machines = [cpus for cpus in machines if cpus >= 1] or [1.0]
    at_once = -(-calls // len(machines))
    cpus = int(CPU_SHARE * min(machines) / max(1, at_once))
    return {"cpus": float(min(MOST_CPUS_PER_CALL, max(1, cpus))), "gpus": 0.0}


def _call_with_threads(function: Callable[[Any], Any], item: Any) -> Any:
    """`function(item)` with as many threads of torch as Ray has set for this call: a process that an earlier
    call has used keeps those of that call."""
    torch, threads = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdecimal():
        torch.set_num_threads(int(threads))
    return function(item)
