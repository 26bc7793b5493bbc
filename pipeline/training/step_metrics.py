"""Loss, rate and speed of each step, kept on the device and read some steps at a time."""

from __future__ import annotations

import math
import time

import torch

from capfilt.cluster.training.trainer import TrainingStopped, Worker
from capfilt.models.training.collectives import sum_over_workers, world
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.pipeline.training.step_log import StepLog
from capfilt.stages.storage.layout import log_folder

SETTLE_STEPS = 50
"""Steps whose numbers are fetched from the device together: reading each would make every step wait for it."""


class StepMetrics:
    """Collects the numbers of steps; the first worker logs their means over all workers.

    Workers call the same methods at the same steps, because the means are made by all of them together.
    """

    def __init__(self, spec: LearnerSpec, worker: Worker) -> None:
        self.spec, self.worker = spec, worker
        self.flops: float | None = None
        """Operations of one step on this worker; None until measured."""
        self.peak: float | None = None
        """FLOP/s the device could do; None where that is not known."""
        self._steps: list[tuple[int, float]] = []
        self._values: list[dict[str, torch.Tensor]] = []
        self._since = time.monotonic()
        self._log: StepLog | None = None

    def add(self, step: int, rate: float, values: dict[str, torch.Tensor]) -> None:
        """Numbers of `step` (from 1).

        Raises:
            TrainingStopped: as `settle`.
        """
        self._steps.append((step, rate))
        self._values.append(values)
        if len(self._steps) >= SETTLE_STEPS:
            self.settle()

    def settle(self, *, flush: bool = False) -> None:
        """Read what has been added and log it.

        Raises:
            TrainingStopped: a loss is no finite number: more steps would only spread it.
        """
        if self._steps:
            names = list(self._values[0])
            table = torch.stack([torch.stack([row[name] for name in names]) for row in self._values])
            means = (sum_over_workers(table) / world()[1]).tolist()
            speed = self.speed(len(self._steps) / max(time.monotonic() - self._since, 1e-9))
            now = time.time()
            for (step, rate), row in zip(self._steps, means, strict=True):
                epoch = step / self.spec.steps_per_epoch
                numbers = dict(zip(names, row, strict=True))
                self._write({"step": step, "epoch": epoch, **numbers, "lr": rate, **speed, "time": now})
                self._check(step, numbers)
            self._steps, self._values, self._since = [], [], time.monotonic()
        if flush and self._log is not None:
            self._log.flush()

    def speed(self, steps_per_second: float) -> dict[str, float]:
        """{"samples_per_second"} over all workers, and {"mfu"}, the share of the devices' peak, where it is known."""
        facts = {"samples_per_second": steps_per_second * self.spec.train.batch_size}
        if self.flops and self.peak:
            facts["mfu"] = self.flops * steps_per_second / self.peak
        return facts

    def _write(self, row: dict[str, float]) -> None:
        if self.worker.rank != 0:
            return
        if self._log is None:
            self._log = StepLog(self.spec.run / log_folder(self.spec.node), done=int(row["step"]) - 1)
        self._log.add(row)

    def _check(self, step: int, numbers: dict[str, float]) -> None:
        if math.isfinite(numbers["loss"]):
            return
        if self._log is not None:
            self._log.flush()
        losses = ", ".join(f"{name} {numbers[name]:g}" for name in ("itc", "itm", "lm") if name in numbers)
        raise TrainingStopped(
            f"{self.spec.node}: the loss is {numbers['loss']:g} at step {step} ({losses}); lower optimizer.lr, "
            "give more warmup_steps, or set optimizer.clip_grad"
        )


def read_metrics(values: dict[str, torch.Tensor], rate: float) -> dict[str, float]:
    """Loss values and learning rate as plain numbers; waits for the device."""
    return {name: float(value) for name, value in values.items()} | {"lr": rate}
