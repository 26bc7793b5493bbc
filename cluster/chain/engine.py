"""Run stages as one Ray Data chain, with one block per shard from end to end.

The form follows from what Ray 2.60 guarantees: with `target_max_block_size=None` and row-preserving stages a
task emits exactly one block, so a task that dies is retried as a whole and its output counts once. Without
both, the death of a worker loses and duplicates rows without an error. All retries are bounded; Ray's default
is to retry a crashing task forever.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy

from capfilt.cluster.chain.losses import losses_named
from capfilt.cluster.chain.ray_internals import map_whole_blocks, watch_executions
from capfilt.cluster.chain.resizing import Demand, Resizing
from capfilt.cluster.chain.steps import FusedRunner, StageRunner, Step, group_steps, run_task
from capfilt.cluster.config import ClusterConfig

MAX_RESTARTS = 20
"""Restarts of an actor over the lifetime of a chain. Ray's default is unlimited."""
MAX_TASK_RETRIES = 3
"""Retries of a task whose process died; then its shard is reported as failed. Ray's default is unlimited."""

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
