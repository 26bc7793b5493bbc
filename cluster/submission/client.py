"""Requests to Ray's job API, and what a cluster's refusals mean in one line."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import ray
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from capfilt.cluster.config import ClusterError
from capfilt.cluster.connection import first_line
from capfilt.cluster.submission.address import ADDRESS_VARIABLE

AGENT_SECONDS = 60.0
"""Time in which a cluster that has just been started must have a node that takes jobs."""
POLL_SECONDS = 1.0
RECONNECT_SECONDS = 30.0
"""Time in which a dashboard must answer again that has stopped to answer while a job was followed."""
RUN_KEY = "capfilt_run"
"""Metadata of a job: its run directory."""
CONFIG_KEY = "capfilt_config"
"""Metadata of a job: digest of its config."""
TALKATIVE_LOGGERS = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
"""Loggers of Ray that tell of the upload; the last two have a level of their own since their import."""
ENDED = ("STOPPED", "SUCCEEDED", "FAILED")


@dataclass(frozen=True)
class Job:
    """A job as the cluster knows it."""

    id: str
    status: str
    """PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED."""
    run: str | None
    """Its run directory; None of a job that capfilt has not submitted."""
    config: str | None
    """Digest of its config."""
    message: str
    exit_code: int | None

    @property
    def is_active(self) -> bool:
        return self.status not in ENDED


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What a cluster is asked to run."""

    id: str
    run: str
    """The run directory."""
    config: str
    """Digest of the config."""
    entrypoint: str
    runtime_env: dict[str, Any]


class JobClient:
    """Jobs of one cluster.

    Args:
        address: of the dashboard of the head, `http://host:8265`.

    Raises:
        ClusterError: nothing answers there, the token is refused, or the cluster runs another Ray.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        for name in TALKATIVE_LOGGERS:
            logging.getLogger(name).setLevel(logging.ERROR)
        with self._explained():
            # Ray lets its variables override the address that it is given.
            with _variables_set({ADDRESS_VARIABLE: address}):
                self._client = JobSubmissionClient(address)
            self._check_version(str(self._client._server_ray_version))

    def find(self, run: str) -> list[Job]:
        """The jobs on a run directory, the newest first."""
        with self._explained():
            listed = self._client.list_jobs()
        found = [each for each in listed if (each.metadata or {}).get(RUN_KEY) == run]
        return [_job(each) for each in sorted(found, key=lambda each: -(each.start_time or 0))]

    def look(self, job_id: str) -> Job | None:
        """A job; None if the cluster does not know it, for example because its head has been restarted."""
        with self._explained():
            try:
                return _job(self._client.get_job_info(job_id))
            except RuntimeError as error:
                if "404" in str(error):
                    return None
                raise

    def submit(self, submission: Submission) -> None:
        """Upload the working directory and start the job.

        Raises:
            ClusterError: the cluster does not take it.
        """
        deadline = time.monotonic() + AGENT_SECONDS
        while True:
            try:
                with self._explained():
                    self._client.submit_job(
                        entrypoint=submission.entrypoint,
                        submission_id=submission.id,
                        runtime_env=submission.runtime_env,
                        metadata={RUN_KEY: submission.run, CONFIG_KEY: submission.config},
                    )
                return
            except ClusterError as error:
                # A head answers some seconds before it can start jobs.
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(POLL_SECONDS)

    def stop(self, job_id: str) -> None:
        """Ask a job to end; does not wait."""
        with self._explained():
            self._client.stop_job(job_id)

    def wait(self, job_id: str, seconds: float) -> Job | None:
        """The job once it has ended, or as it is after so many seconds; None if it is unknown."""
        deadline = time.monotonic() + seconds
        while (job := self.look(job_id)) is not None and job.is_active and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return job

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Write the output of a job, from its beginning, until it ends.

        A connection that breaks is made again; nothing is written twice.

        Raises:
            ClusterError: the cluster is gone, or does not know the job any more.
        """
        written, answered = 0, time.monotonic()
        while True:
            try:
                with self._explained():
                    written = asyncio.run(self._copy_output(job_id, write, written))
            except _Broken as broken:
                written = broken.written
            try:
                job = self.look(job_id)
            except ClusterError as error:
                if time.monotonic() - answered < RECONNECT_SECONDS:
                    time.sleep(POLL_SECONDS)
                    continue
                raise ClusterError(
                    f"{error}. The same command follows job {job_id} again, or submits the run again if "
                    "the head was lost: it resumes"
                ) from error
            answered = time.monotonic()
            if job is None:
                raise ClusterError(
                    f"{self.address}: the cluster does not know job {job_id} any more: its head was "
                    "restarted; the same command submits the run again, and it resumes"
                )
            if not job.is_active:
                return job
            time.sleep(POLL_SECONDS)

    async def _copy_output(self, job_id: str, write: Callable[[str], None], skipped: int) -> int:
        """Write the output but for its first characters; return how many there are by now.

        Raises:
            _Broken: the connection has ended before the job.
        """
        seen = 0
        try:
            async for part in self._client.tail_job_logs(job_id):
                write(part[max(0, skipped - seen) :])
                seen += len(part)
        except (RuntimeError, OSError) as error:
            raise _Broken(max(seen, skipped)) from error
        return max(seen, skipped)

    def _check_version(self, version: str) -> None:
        if version.split(".")[:2] != ray.__version__.split(".")[:2]:
            raise ClusterError(
                f"{self.address}: the cluster runs Ray {version}, and this capfilt needs {ray.__version__}; "
                "start the cluster with that version, or with the image of docs/clusters.md"
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn the errors of Ray's client into one line.

        Raises:
            ClusterError: what is wrong and what to do.
        """
        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(f"{self.address}: {explain_refusal(str(error), os.environ)}") from error
        except (ValueError, KeyError) as error:  # an answer that is not Ray's
            raise ClusterError(
                f"{self.address}: what answers there is not Ray's dashboard; give --address http://HOST:8265"
            ) from error
        except (ConnectionError, requests.exceptions.RequestException, OSError) as error:
            raise ClusterError(
                f"{self.address}: no Ray dashboard answers there ({type(error).__name__}); start the "
                "cluster, forward port 8265 of its head to this machine (`ray dashboard CLUSTER.yaml`, "
                "`kubectl port-forward service/HEAD 8265`), or give --address http://HOST:8265"
            ) from error
        except RuntimeError as error:
            if isinstance(error, (ClusterError, _Broken)):
                raise
            raise ClusterError(f"{self.address}: {_cause(str(error))}") from error


class _Broken(RuntimeError):
    """A connection that has ended early, after so many characters."""

    def __init__(self, written: int) -> None:
        super().__init__("the connection has ended")
        self.written = written


def explain_refusal(text: str, environment: Mapping[str, str]) -> str:
    """Why a cluster has refused a request, and how to send its token.

    Args:
        text: of Ray's error; it differs for a token that is missing and one that is wrong.
    """
    where = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    same = "that of the machine on which `ray start --head` ran, shown there by `ray get-auth-token`"
    if text.startswith("Authentication failed"):
        return f"the cluster refuses the token of {where}; it must be {same}"
    if environment.get("RAY_AUTH_MODE") != "token":
        return f"the cluster requires a token; export RAY_AUTH_MODE=token and put it into {where}: {same}"
    return f"the cluster requires a token, and none is found in {where}; it must be {same}"


def normalize_address(address: str) -> str:
    """The address of a dashboard as a url.

    Raises:
        ClusterError: it is that of another of Ray's servers.
    """
    url = address.rstrip("/") if "://" in address else f"http://{address}".rstrip("/")
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ClusterError(
            f"--address {address}: give the dashboard of the head, http://HOST:8265; jobs are submitted there"
        )
    return url


def _job(details: Any) -> Job:
    metadata = details.metadata or {}
    return Job(
        id=details.submission_id,
        status=str(details.status),
        run=metadata.get(RUN_KEY),
        config=metadata.get(CONFIG_KEY),
        message=_cause(details.message or ""),
        exit_code=details.driver_exit_code,
    )


def _cause(text: str) -> str:
    """The line of a trace or a message that says most: the last one of a trace, otherwise the first."""
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    if not lines:
        return ""
    is_trace = "Traceback (most recent call last)" in text
    return lines[-1].rstrip(".") if is_trace else first_line(RuntimeError(text)).rstrip(".")


@contextmanager
def _variables_set(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
