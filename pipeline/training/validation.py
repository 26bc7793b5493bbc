"""Validation of a training: the loss on human images that it does not read decides which step is kept.

The loss depends on the weights alone. All workers compute it together and get the same value, so they stop at
the same step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

import torch

from capfilt.cluster.training.trainer import TrainingStopped, Worker
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.training.collectives import sum_over_workers, world
from capfilt.models.training.objectives import Objective
from capfilt.pipeline.config.training import ValidationSection
from capfilt.pipeline.node import ValidationResult
from capfilt.pipeline.training.batches import Batch
from capfilt.pipeline.training.spec import LearnerSpec

NOT_AVERAGED = ("temperature",)
"""What an objective returns that says nothing about the held-out pairs."""


class Validation:
    """Measures a model on held-out pairs, and keeps the best weights.

    Args:
        config: when to measure, and when to stop.
        spec: the training.
        worker: where it runs; the worker of rank 0 keeps the weights.
        med: the model that is trained.
        tokenizer: its tokenizer.
    """

    def __init__(
        self, config: ValidationSection, spec: LearnerSpec, worker: Worker, med: MED, tokenizer: Tokenizer
    ) -> None:
        self.config, self.spec, self.worker, self.med = config, spec, worker, med
        # Queue and momentum encoder change from step to step, and smoothing adds what no text can lower.
        losses = replace(spec.train.objective, queue_size=0, alpha=0.0, label_smoothing=0.0)
        self.objective = Objective(med, tokenizer, losses, spec.seed)
        self.steps: list[int] = []
        self.losses: list[float] = []
        self.best_step = 0
        self._best_weights: dict[str, torch.Tensor] = {}

    def is_due(self, step: int) -> bool:
        """Whether the model is measured after this step."""
        return step % self.config.every == 0 or step == self.spec.total_steps

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch], autocast: AbstractContextManager[object]) -> dict[str, float]:
        """Means over batches and workers: "loss", each loss by name, and "itm_accuracy".

        Raises:
            TrainingStopped: there is no held-out pair.
        """
        self.objective.eval()
        totals: dict[str, torch.Tensor] = {}
        pieces = 0
        for piece in (piece for batch in batches for piece in batch.pieces):
            with autocast:
                losses = self.objective(piece)
            pieces += 1
            for name in losses.keys() - set(NOT_AVERAGED):
                value = losses[name].float()
                totals[name] = totals[name] + value if name in totals else value
        if not pieces:
            raise TrainingStopped(
                f"{self.spec.node}: no human image is held out for the validation; raise "
                f"{self.spec.section}.validation.share ({self.config.share:g})"
            )
        names = sorted(totals)
        means = sum_over_workers(torch.stack([totals[name] for name in names])) / (pieces * world()[1])
        return dict(zip(names, means.tolist(), strict=True))

    def record(self, step: int, loss: float) -> bool:
        """Keep the weights if the loss is the lowest so far.

        Returns:
            Whether the training has lost its patience.

        Raises:
            TrainingStopped: the loss is not finite.
        """
        if not math.isfinite(loss):
            raise TrainingStopped(
                f"{self.spec.node}: the validation loss is {loss:g} after step {step}; lower "
                f"{self.spec.section}.optimizer.lr"
            )
        if not self.losses or loss < min(self.losses):
            self.best_step = step
            if self.worker.rank == 0:
                weights = self.med.state_dict()
                self._best_weights = {name: tensor.detach().cpu().clone() for name, tensor in weights.items()}
        self.steps.append(step)
        self.losses.append(loss)
        return len(self.steps) - 1 - self.steps.index(self.best_step) >= self.config.patience

    def restore_best(self) -> None:
        """Give the model the best weights; on the worker of rank 0."""
        self.med.load_state_dict(self._best_weights)

    def result(self, pairs: int) -> dict[str, Any]:
        """Content of the model's provenance.json, as in `ValidationResult`."""
        return asdict(ValidationResult(pairs, self.best_step, self.steps, self.losses))

    def state(self) -> dict[str, Any]:
        """What `load_state` restores; on the worker of rank 0."""
        return {
            "steps": self.steps,
            "losses": self.losses,
            "best_step": self.best_step,
            "weights": self._best_weights,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore the result of `state`."""
        self.steps, self.losses = list(state["steps"]), list(state["losses"])
        self.best_step = state["best_step"]
        self._best_weights = dict(state["weights"]) if self.worker.rank == 0 else {}
