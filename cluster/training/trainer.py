"""Ray Train: train any learner on one or more workers, resuming from its last checkpoint."""

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
from capfilt.cluster.training.feed import Feed
from capfilt.cluster.training.own_feed import OwnFeed
from capfilt.cluster.training.rescue import recover_checkpoint, write_file_list

POST_INTERVAL_S = 1.0
"""Seconds between two posts of a training's progress."""


class TrainingStopped(RuntimeError):
    """Raised by a learner on all workers at the same step to end the training: continuing or retrying would
    have the same result."""


class LocalTrainingStop(TrainingStopped):
    """The same, raised by one worker while the others may wait for that worker in the middle of a step."""


class Learner(Protocol):
    """What `fit` trains. `load` restores exactly the state of `save`, including the position in the data."""

    step: int
    """Optimizer steps done so far."""
    total_steps: int

    def train_step(self) -> Callable[[], dict[str, float]]:
        """Take one optimizer step on the next batch.

        Returns:
            A function that gives the metrics of the step. It may have to wait for the device and is called
            rarely.
        """

    def throughput(self, steps_per_second: float) -> dict[str, float]:
        """The speed in other units, and what was read, for display: {"samples_per_second": …, "mfu": …}."""

    def flush_metrics(self) -> None:
        """Write the metrics of all steps so far (called on every worker before `save` and `finish`)."""

    def save(self, folder: str) -> None:
        """Write everything that a resume needs (called on rank 0 only; all workers hold the same state)."""

    def load(self, folder: str) -> None:
        """Restore the state that `save` has written (called on every worker)."""

    def finish(self) -> None:
        """Write the trained model (called on rank 0 only)."""


@dataclass(frozen=True)
class Worker:
    """Where a learner runs."""

    rank: int
    world_size: int
    device: torch.device
    feed: Feed | OwnFeed | None = None
    """Reads the input; given to every worker that `fit` starts."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One training node."""

    node: str
    """Name of the node, under which progress is posted."""
    name: str
    """Name under which Ray Train resumes; changes with everything that determines the result."""
    storage_path: str
    """Folder for checkpoints, on storage that all workers reach."""
    storage_filesystem: Any = None
    """PyArrow filesystem of `storage_path`; None for a local path."""
    workers: WorkersConfig
    gpus_per_worker: float
    build: Callable[[Worker], Learner]
    """Builds the learner on a worker; picklable."""
    board: StatusBoard | None = None
    """Receives the progress."""
    recovered_checkpoint: str | None = None
    """Path of a checkpoint to resume from if Ray Train knows of none; set by `fit`."""
    feed: Feed | None = None
    """Reads the input of several workers; set by `fit`."""


def fit(job: TrainJob) -> None:
    """Train to the end, starting from the last checkpoint of the same name if there is one. The result is
    what the learner's `finish` writes.

    Raises:
        ray.train.TrainingFailedError: workers failed more often than `max_failures`.
        TrainingStopped: raised by the learner; the training is not retried.
    """
    checkpoint = recover_checkpoint(job.storage_filesystem, f"{job.storage_path}/{job.name}")
    feed = Feed() if job.workers.workers > 1 else None
    try:
        _fit(replace(job, recovered_checkpoint=checkpoint, feed=feed))
    finally:
        if feed is not None:
            feed.close()


def _fit(job: TrainJob) -> None:
    """`fit` of a job that is complete."""
    gpus = {"GPU": job.gpus_per_worker} if job.gpus_per_worker else {}
    trainer = ray.train.torch.TorchTrainer(
        train_loop,
        # As bytes: Ray Train's controller unpickles this config and would import every model while doing so.
        train_loop_config={"job": ray.cloudpickle.dumps(job)},
        scaling_config=ScalingConfig(
            num_workers=job.workers.workers,
            use_gpu=job.gpus_per_worker > 0,
            resources_per_worker={"CPU": job.workers.cpus_per_worker, **gpus},
        ),
        run_config=RunConfig(
            name=job.name,
            storage_path=job.storage_path,
            storage_filesystem=job.storage_filesystem,
            failure_config=FailureConfig(max_failures=job.workers.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            callbacks=[_AbortOnLocalStop()],
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


class _AbortOnLocalStop(ray.train.UserCallback):  # type: ignore[misc]  # Ray comes without types
    """Ends the training of all workers when one raises LocalTrainingStop.

    Ray Train takes an exception of a worker for a failure and retries. An exception in its own controller,
    where this callback runs, is final and terminates the other workers.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Called by Ray Train with the exceptions of workers by rank."""
        for error in worker_exceptions.values():
            if isinstance(error, LocalTrainingStop):
                raise error


def train_loop(config: dict[str, Any]) -> None:
    """What each worker runs: build the learner, restore it, train, write the result.

    Args:
        config: {"job": pickled TrainJob}.
    """
    job: TrainJob = ray.cloudpickle.loads(config["job"])
    context = ray.train.get_context()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(max(1, int(job.workers.cpus_per_worker)))
    rank = context.get_world_rank()
    learner = job.build(Worker(rank, context.get_world_size(), device, job.feed or OwnFeed()))
    _restore(job, learner)
    reporter = _ProgressReporter(job, learner) if rank == 0 else None
    try:
        _run_steps(job, learner, rank, reporter)
    except LocalTrainingStop:
        raise  # ray.train.report would wait for the other workers
    except TrainingStopped as stop:
        # Reported as a result: Ray Train would take an exception for a failed worker and retry.
        ray.train.report({"steps": learner.step, "stopped": str(stop)})
        return
    if rank == 0:
        learner.finish()
    # A barrier: no worker exits before the result is written.
    ray.train.report({"steps": learner.step})


def _restore(job: TrainJob, learner: Learner) -> None:
    """Load the last checkpoint, if there is one."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None and job.recovered_checkpoint is not None:
        checkpoint = ray.train.Checkpoint(job.recovered_checkpoint, filesystem=job.storage_filesystem)
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            learner.load(folder)


def _run_steps(job: TrainJob, learner: Learner, rank: int, reporter: _ProgressReporter | None) -> None:
    while learner.step < learner.total_steps:
        read_metrics = learner.train_step()
        if reporter is not None:
            reporter.report(read_metrics)
        # No checkpoint after the last step: the result follows.
        if learner.step % job.workers.checkpoint_every == 0 and learner.step < learner.total_steps:
            learner.flush_metrics()
            _save_checkpoint(learner, rank)
    learner.flush_metrics()


def _save_checkpoint(learner: Learner, rank: int) -> None:
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
    """Posts metrics and speed of a training to the board, about once a second."""

    def __init__(self, job: TrainJob, learner: Learner) -> None:
        self.job, self.learner = job, learner
        self._start, self._first_step, self._last_post = time.monotonic(), learner.step, 0.0
        # Workers have no terminal; the process id helps to find a worker that hangs.
        if job.board is not None:
            job.board.post(job.node, pid=os.getpid(), total=learner.total_steps)

    def report(self, read_metrics: Callable[[], dict[str, float]]) -> None:
        """Post the state after a step unless the last post is too recent; always post the last step."""
        now = time.monotonic()
        is_last = self.learner.step == self.learner.total_steps
        if self.job.board is None or (now - self._last_post < POST_INTERVAL_S and not is_last):
            return
        self._last_post = now
        steps_per_second = (self.learner.step - self._first_step) / max(now - self._start, 1e-9)
        self.job.board.post(
            self.job.node,
            step=self.learner.step,
            total=self.learner.total_steps,
            steps_per_second=steps_per_second,
            **self.learner.throughput(steps_per_second),
            **read_metrics(),
        )
