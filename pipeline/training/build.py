"""NEW FILE."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capfilt.pipeline.training.spec import LearnerSpec

if TYPE_CHECKING:
    from capfilt.cluster.training.trainer import Worker
    from capfilt.pipeline.training.learner import PairLearner


def build_learner(spec: LearnerSpec, worker: Worker) -> PairLearner:
    """A fresh learner on a worker (picklable by `functools.partial`)."""
    from capfilt.pipeline.training.learner import PairLearner

    return PairLearner(spec, worker)
