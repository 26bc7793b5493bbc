"""The parts of Ray Data without a public form that a chain needs; nothing else of capfilt uses any.

There are four: a map whose task takes a whole block on a GPU (the public `map_batches` requires a batch size
there, which merges neighboring blocks as soon as a shard has fewer rows), a callback while an execution runs,
the state of the execution that it sees, and the end of its actors when it fails.
`tests/end_to_end/test_ray_internals.py` holds each against the installed Ray.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import DataContext, Dataset
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.streaming_executor import StreamingExecutor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExecutionState:
    """How far an execution is."""

    finished: int
    """Tasks that have finished, of all operators."""
    waiting: tuple[int, ...]
    """Blocks that wait before each map, in the order of the maps."""


Watch = Callable[[ExecutionState], None]
"""Called several times a second while an execution runs; what it raises ends the execution."""


def map_whole_blocks(dataset: Dataset, function: Any, **options: Any) -> Dataset:
    """Map each block of a dataset as one Arrow table, on CPUs or GPUs.

    Args:
        function: a function of a table, or a class that is built once per actor.
        options: those of `Dataset.map_batches`; others are options of Ray's tasks and actors.
    """
    return dataset.map_batches_internal(function, batch_size=None, batch_format="pyarrow", **options)


def watch_executions(context: DataContext, watch: Watch) -> None:
    """Let the executions of a context's datasets call `watch`, on the driver, and kill the actors of one that
    fails."""
    context.custom_execution_callback_classes = [_CallbackFactory(watch)]


def read_state(executor: Any) -> ExecutionState:
    """The state of Ray Data's `StreamingExecutor`."""
    maps = [state for operator, state in executor._topology.items() if operator.input_dependencies]
    return ExecutionState(
        finished=sum(operator.metrics.num_tasks_finished for operator in executor._topology),
        waiting=tuple(state.total_enqueued_input_blocks() for state in maps),
    )


class _Executor(StreamingExecutor):  # type: ignore[misc]
    """An executor whose actors do not outlive a failure.

    Ray Data drops its handles of them. An actor then ends only once it has done all tasks that it was given,
    and holds its GPU until then: for ever if it hangs, or if the input of a task was lost with the actor that
    made it. The next pass would wait for its GPU.
    """

    def shutdown(self, force: bool, exception: Exception | None = None) -> None:
        """Called by Ray with the error when the execution has failed."""
        doomed = [] if exception is None else _actors(self)
        super().shutdown(force, exception)
        for actor in doomed:
            try:
                ray.kill(actor)
            except Exception:  # must not take the place of the error that ended the execution
                log.warning("an actor of an execution that failed could not be killed", exc_info=True)


def _actors(executor: Any) -> list[Any]:
    """The actors of an execution, also those that have not started."""
    pools = [operator._actor_pool for operator in executor._topology if hasattr(operator, "_actor_pool")]
    return [actor for pool in pools for actor in (*pool._running_actors, *pool._pending_actors.values())]


class _Callback(ExecutionCallback):  # type: ignore[misc]
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def before_execution_starts(self, executor: Any) -> None:
        """Ray calls this with the executor, whose class it does not let us choose."""
        executor.__class__ = _Executor

    def on_execution_step(self, executor: Any) -> None:
        """Ray calls this several times a second."""
        self.watch(read_state(executor))


class _CallbackFactory:
    """Makes the callback of each execution; what Ray Data's settings hold.

    Ray Data copies its settings for each dataset and sends them to other processes. The copies on the driver
    share `watch`; those that are sent have none and watch nothing. A training that starts while a chain runs
    gets such a copy, and its workers run executions of their own.
    """

    def __init__(self, watch: Watch | None) -> None:
        self.watch = watch

    def __call__(self) -> ExecutionCallback:
        return ExecutionCallback() if self.watch is None else _Callback(self.watch)

    def __deepcopy__(self, memo: object) -> _CallbackFactory:
        return self

    def __reduce__(self) -> tuple[type[_CallbackFactory], tuple[None]]:
        return _CallbackFactory, (None,)
