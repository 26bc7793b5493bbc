"""Submit a run to a Ray cluster, or find the job that works on it already."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from capfilt.cluster.config import ClusterError
from capfilt.cluster.submission.address import SUBMITTED_BY, SUBMITTED_TO
from capfilt.pipeline.config.load import dump_config
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.submission.package import SubmissionError, check_paths, write_package
from capfilt.stages.storage.layout import CONFIG

if TYPE_CHECKING:
    from capfilt.cluster.submission.client import Job, JobClient

Environment = Literal["image", "lock"]
ENTRYPOINT = f"python -m capfilt.pipeline run {CONFIG}"
STOP_MARGIN_SECONDS = 30
"""Seconds beyond `run.grace_seconds` after which Ray kills a job that was asked to end; its default is 3."""


@dataclass(frozen=True)
class Submitted:
    """A job that works on the run, and whether this call has started it."""

    job: str
    is_new: bool
    bytes: int = 0
    """Size of what was uploaded."""


def submit_run(client: JobClient, config: Config, command: str, environment: Environment) -> Submitted:
    """Submit a run, unless a job works on its directory already.

    Args:
        command: what the user has called, for messages of the job.
        environment: see `cluster.submission.environment.runtime_env`.

    Raises:
        SubmissionError: the config names files of this folder, or a job with another config works on the run.
        ClusterError: the cluster does not take the job.
    """
    from capfilt.cluster.submission.client import Submission
    from capfilt.cluster.submission.environment import runtime_env

    check_paths(config)
    run, digest = run_name(config.run.dir), config_digest(config)
    jobs = client.find(run)
    if (active := _active(jobs)) is not None:
        return _join(active, digest, run)
    variables = {
        SUBMITTED_TO: client.address,
        SUBMITTED_BY: command,
        "RAY_JOB_STOP_WAIT_TIME_S": str(int(config.run.grace_seconds) + STOP_MARGIN_SECONDS),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
        size = write_package(config, Path(folder))
        submission = Submission(
            id=job_id(run, len(jobs) + 1),
            run=run,
            config=digest,
            entrypoint=ENTRYPOINT,
            runtime_env=runtime_env(environment, variables) | {"working_dir": folder},
        )
        try:
            client.submit(submission)
        except ClusterError:
            # Somebody else may have submitted it in this moment: ids are counted.
            if (active := _active(client.find(run))) is None:
                raise
            return _join(active, digest, run)
    return Submitted(submission.id, is_new=True, bytes=size)


def run_name(run_dir: str) -> str:
    """A run directory as jobs name it."""
    return run_dir.rstrip("/")


def job_id(run: str, number: int) -> str:
    """Id of the nth job on a run directory."""
    return f"capfilt-{hashlib.sha256(run.encode()).hexdigest()[:8]}-{number}"


def config_digest(config: Config) -> str:
    return hashlib.sha256(dump_config(config).encode()).hexdigest()[:16]


def _active(jobs: list[Job]) -> Job | None:
    return next((job for job in jobs if job.is_active), None)


def _join(job: Job, digest: str, run: str) -> Submitted:
    if job.config != digest:
        raise SubmissionError(
            f"job {job.id} works on {run} with another config; follow it with its own config, or stop it: "
            f"capfilt stop {run}"
        )
    return Submitted(job.id, is_new=False)
