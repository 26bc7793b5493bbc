"""Build the learner of a downstream task on a worker. Importing this module imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capfilt.pipeline.training.spec import TaskSpec

if TYPE_CHECKING:
    from capfilt.cluster.training.trainer import Worker
    from capfilt.pipeline.tasks.learner import TaskLearner


def build_task_learner(spec: TaskSpec, worker: Worker) -> TaskLearner:
    """A new learner, at step 0. `functools.partial(build_task_learner, spec)` is picklable."""
    from capfilt.pipeline.tasks.learner import TaskLearner

    return TaskLearner(spec, worker)
