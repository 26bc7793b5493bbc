"""Build the learner on a worker. Importing this module imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capfilt.pipeline.training.spec import LearnerSpec

if TYPE_CHECKING:
    from capfilt.cluster.training.trainer import Worker
    from capfilt.pipeline.training.learner import PairLearner


def build_learner(spec: LearnerSpec, worker: Worker) -> PairLearner:
    """A new learner, at step 0. `functools.partial(build_learner, spec)` is picklable."""
    from capfilt.pipeline.training.learner import PairLearner

    return PairLearner(spec, worker)
