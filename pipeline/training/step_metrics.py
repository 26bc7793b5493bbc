"""Losses, learning rate and speed of each step, kept on the device and read for several steps at once."""

from __future__ import annotations

import math
import time

import torch

from capfilt.cluster.training.trainer import TrainingStopped, Worker
from capfilt.models.training.collectives import sum_over_workers, world
from capfilt.pipeline.training.spec import LearnerSpec
from capfilt.pipeline.training.step_log import StepLog
from capfilt.stages.pairs.stream import EpochBytes
from capfilt.stages.storage.layout import log_folder

MB = 1e6
"""Bytes."""


class StepMetrics:
    """Collects the metrics of steps; rank 0 logs their means over all workers.

    All workers must call the same methods at the same steps, because the means are computed by all of them
    together.
    """

    def __init__(self, spec: LearnerSpec, worker: Worker) -> None:
        self.spec, self.worker = spec, worker
        self.step_flops: float | None = None
        """Floating-point operations of one step on this worker; None until measured."""
        self.peak_flops: float | None = None
        """Peak FLOP/s of the device; None if unknown."""
        self._steps: list[tuple[int, float]] = []
        """(step, learning rate) of the steps in `_losses`."""
        self._losses: list[dict[str, torch.Tensor]] = []
        self.epoch_read_mb = 0.0
        """MB that were read for a worker in the epoch of the last step."""
        self._bytes: list[EpochBytes] = []
        """Of the same steps."""
        self._validated: dict[int, dict[str, float]] = {}
        """Step → losses of a validation after it, until they are logged."""
        self._last_read = time.monotonic()
        self._log: StepLog | None = None

    def add(self, step: int, lr: float, losses: dict[str, torch.Tensor], read: EpochBytes) -> None:
        """Add a step.

        Args:
            step: number of the step, from 1.
            lr: its learning rate.
            losses: 0-dim tensors on the device; the same names in every step.
            read: what this worker has read in the epoch.

        Raises:
            TrainingStopped: see `log_pending`.
        """
        self._steps.append((step, lr))
        self._losses.append(losses)
        self._bytes.append(read)
        self.epoch_read_mb = read.read / MB
        if len(self._steps) >= self.spec.train.workers.log_every:
            self.log_pending()

    def add_validation(self, step: int, losses: dict[str, float]) -> None:
        """Add the losses of a validation after a step, before the step itself."""
        self._validated[step] = {f"validation_{name}": loss for name, loss in losses.items()}

    def log_pending(self, *, flush: bool = False) -> None:
        """Read the losses of the steps added since the last call and log them.

        Args:
            flush: also write the log to its files.

        Raises:
            TrainingStopped: a loss is not finite; further steps would only spread it through the weights.
        """
        if self._steps:
            names = list(self._losses[0])
            table = torch.stack([torch.stack([row[name] for name in names]) for row in self._losses])
            read = [[each.read / MB, each.received / MB] for each in self._bytes]
            table = torch.cat([table, torch.tensor(read, dtype=table.dtype, device=table.device)], dim=1)
            means = (sum_over_workers(table) / world()[1]).tolist()
            speed = self.throughput(len(self._steps) / max(time.monotonic() - self._last_read, 1e-9))
            now = time.time()
            for (step, lr), row in zip(self._steps, means, strict=True):
                epoch = step / self.spec.steps_per_epoch
                *values, read_mb, received_mb = row
                losses = dict(zip(names, values, strict=True))
                measured = losses | self._validated.pop(step, {})
                measured |= {"lr": lr, "epoch_read_mb": read_mb, "epoch_received_mb": received_mb}
                self._write({"step": step, "epoch": epoch, **measured, **speed, "time": now})
                self._check_finite(step, losses)
            self._steps, self._losses, self._bytes = [], [], []
            self._last_read = time.monotonic()
        if flush and self._log is not None:
            self._log.flush()

    def throughput(self, steps_per_second: float) -> dict[str, float]:
        """{"samples_per_second"} of all workers together, and {"mfu"}, the share of the device's peak FLOP/s
        that the step uses, if the peak is known."""
        metrics = {"samples_per_second": steps_per_second * self.spec.train.batch_size}
        if self.step_flops and self.peak_flops:
            metrics["mfu"] = self.step_flops * steps_per_second / self.peak_flops
        return metrics

    def _write(self, row: dict[str, float]) -> None:
        if self.worker.rank != 0:
            return
        if self._log is None:
            self._log = StepLog(
                self.spec.run_dir / log_folder(self.spec.node), steps_done=int(row["step"]) - 1
            )
        self._log.add(row)

    def _check_finite(self, step: int, losses: dict[str, float]) -> None:
        if math.isfinite(losses["loss"]):
            return
        if self._log is not None:
            self._log.flush()
        parts = ", ".join(f"{name} {losses[name]:g}" for name in ("itc", "itm", "lm") if name in losses)
        key = f"{self.spec.section}.optimizer"
        raise TrainingStopped(
            f"{self.spec.node}: the loss is {losses['loss']:g} at step {step} ({parts}); lower {key}.lr, "
            f"raise {key}.warmup_steps, or set {key}.clip_grad"
        )


def read_metrics(losses: dict[str, torch.Tensor], lr: float) -> dict[str, float]:
    """Losses and learning rate as plain numbers; waits for the device."""
    return {name: float(value) for name, value in losses.items()} | {"lr": lr}
