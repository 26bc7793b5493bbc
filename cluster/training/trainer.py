"""Ray Train: any learner over any stream, on one or more workers, resumed from its last checkpoint."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig

from capfilt.cluster.board import StatusBoard
from capfilt.cluster.config import WorkersConfig
from capfilt.cluster.training.rescue import rescue, write_file_list


class TrainingStopped(RuntimeError):
    """A learner's own verdict, on all workers at once: going on, or trying again, would give the same."""


class LocalTrainingStop(TrainingStopped):
    """A verdict that perhaps one worker alone has: the others may wait for it in the middle of a step."""


class Learner(Protocol):
    """What `fit` trains. Its state after `load` is exactly its state at `save`, data position included."""

    step: int
    total_steps: int

    def train_step(self) -> Callable[[], dict[str, float]]:
        """Take the next batch and one optimizer step. The result gives the step's numbers when called, which
        may wait for the device and is therefore done seldom."""

    def speed(self, steps_per_second: float) -> dict[str, float]:
        """The same speed in other units, for people: {"samples_per_second": …, "mfu": …}."""

    def settle(self) -> None:
        """Bring to an end what the steps so far left open (called on every worker before `save` and `finish`)."""

    def save(self, folder: str) -> None:
        """Write everything a resume needs (called on rank 0 only; workers hold equal state)."""

    def load(self, folder: str) -> None: ...

    def finish(self) -> None:
        """Write the result (called on rank 0 only)."""


@dataclass(frozen=True)
class Worker:
    """Where a learner runs."""

    rank: int
    world: int
    device: torch.device


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training node."""

    node: str
    name: str
    """Changes with everything that determines the result; Ray Train resumes by it."""
    storage: str
    """Folder for checkpoints on storage that all workers reach."""
    storage_filesystem: Any = None
    """pyarrow filesystem of `storage` when it is no local path."""
    workers: WorkersConfig
    gpus: float
    """GPUs per worker, resolved."""
    build: Callable[[Worker], Learner]
    board: StatusBoard | None = None
    rescued: str | None = None
    """Path of a checkpoint to begin with when Ray Train knows of none."""


def fit(job: TrainJob) -> None:
    """Train to the end, or on from the last checkpoint of the same name. The result is what the learner's
    `finish` wrote.

    Raises:
        ray.train.TrainingFailedError: a worker failed more often than `max_failures`.
        TrainingStopped: the learner said so. It is not tried again.
    """
    job = replace(job, rescued=rescue(job.storage_filesystem, f"{job.storage}/{job.name}"))
    trainer = ray.train.torch.TorchTrainer(
        _train,
        # As bytes: Ray Train's controller unpickles this config, and would import every model on the way.
        train_loop_config={"job": ray.cloudpickle.dumps(job)},
        scaling_config=ScalingConfig(
            num_workers=job.workers.workers,
            use_gpu=job.gpus > 0,
            resources_per_worker={"CPU": job.workers.cpus_per_worker}
            | ({"GPU": job.gpus} if job.gpus else {}),
        ),
        run_config=RunConfig(
            name=job.name,
            storage_path=job.storage,
            storage_filesystem=job.storage_filesystem,
            failure_config=FailureConfig(max_failures=job.workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[_EndAtOnce()],
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.ControllerError as error:
        if isinstance(error.controller_failure, TrainingStopped):
            raise error.controller_failure from error
        raise
    if result.metrics is not None and "stopped" in result.metrics:
        raise TrainingStopped(result.metrics["stopped"])


class _EndAtOnce(ray.train.UserCallback):  # type: ignore[misc]  # Ray comes without types
    """Makes one worker's verdict that of the training, whatever the others do. Ray Train takes a worker's error for its
    death and tries again; an error in its own controller, where this runs, is final and ends the other workers."""

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called with the errors of workers by rank."""
        for error in worker_exceptions.values():
            if isinstance(error, LocalTrainingStop):
                raise error


def _train(config: dict[str, Any]) -> None:
    job: TrainJob = ray.cloudpickle.loads(config["job"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(job.workers.cpus_per_worker)))
    rank = context.get_world_rank()
    learner = job.build(Worker(rank, context.get_world_size(), device))
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None and job.rescued is not None:
        checkpoint = ray.train.Checkpoint(job.rescued, filesystem=job.storage_filesystem)
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            learner.load(folder)
    tell = _ProgressReporter(job, learner) if rank == 0 else None
    try:
        _steps(job, learner, rank, tell)
    except LocalTrainingStop:
        raise  # a report would wait for the other workers
    except TrainingStopped as verdict:
        # As a result, not as an error: Ray Train would take it for a worker's death and try again.
        ray.train.report({"steps": learner.step, "stopped": str(verdict)})
        return
    if rank == 0:
        learner.finish()
    # A barrier: no worker leaves before the result is written.
    ray.train.report({"steps": learner.step})


def _steps(job: TrainJob, learner: Learner, rank: int, tell: _ProgressReporter | None) -> None:
    while learner.step < learner.total_steps:
        numbers = learner.train_step()
        if tell is not None:
            tell(numbers)
        # The last step's state is not kept: what follows it is the result itself.
        if learner.step % job.workers.checkpoint_every == 0 and learner.step < learner.total_steps:
            learner.settle()
            _checkpoint(learner, rank)
    learner.settle()


def _checkpoint(learner: Learner, rank: int) -> None:
    name = f"step_{learner.step:09d}"
    if rank != 0:
        ray.train.report({"steps": learner.step}, checkpoint=None, checkpoint_dir_name=name)
        return
    with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
        learner.save(folder)
        write_file_list(folder)
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"steps": learner.step}, checkpoint=checkpoint, checkpoint_dir_name=name)


class _ProgressReporter:
    """Posts loss and speed to the driver's board about once a second."""

    def __init__(self, job: TrainJob, learner: Learner) -> None:
        self.job, self.learner = job, learner
        self.start, self.first_step, self.last = time.monotonic(), learner.step, 0.0
        # Worker processes have no terminal; the pid helps whoever looks for one that hangs.
        if job.board is not None:
            job.board.post(job.node, pid=os.getpid(), total=learner.total_steps)

    def __call__(self, numbers: Callable[[], dict[str, float]]) -> None:
        now = time.monotonic()
        done = self.learner.step == self.learner.total_steps
        if self.job.board is None or (now - self.last < 1.0 and not done):
            return
        self.last = now
        speed = (self.learner.step - self.first_step) / max(now - self.start, 1e-9)
        self.job.board.post(
            self.job.node,
            step=self.learner.step,
            total=self.learner.total_steps,
            steps_per_second=speed,
            **self.learner.speed(speed),
            **numbers(),
        )
