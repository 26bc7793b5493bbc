"""Connect to the Ray cluster that this process belongs to, or start a Ray instance in it."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.data  # its import sets the levels of its loggers, so it must come before they are changed
from ray._private import ray_constants
from ray._private import worker as ray_worker

from capfilt.cluster.config import ClusterConfig, ClusterError, is_ray_job
from capfilt.cluster.connection import connect, discarded_stderr, first_line, signal_handlers_kept

log = logging.getLogger(__name__)

MINIMUM_LOGICAL_CPUS = 4
"""CPUs that a Ray instance started here reports at least. A chain holds one fetch actor and two model actors
while its tasks that read and write need CPUs, too; with fewer than four, Ray would wait forever."""
MINIMUM_FREE_BYTES = 50_000_000
"""Free bytes in the temporary folder in which a Ray instance is started: its logs and sockets."""
TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Environment variables that say whether and how Ray authenticates its clients."""

LOOPBACK = "127.0.0.1"
"""Address of a Ray instance started here: nobody but processes of this machine needs to reach it."""


@contextmanager
def session(config: ClusterConfig) -> Iterator[None]:
    """Connect to Ray for the duration of the block. A connection that exists already is used and left open.

    Raises:
        ClusterError: no cluster answers at the address, or Ray cannot be started in this process.
    """
    if ray.is_initialized():
        yield
        return
    # Otherwise the C++ core of this process prints harmless lines as errors on the terminal. Errors that end
    # a call are exceptions.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with _ray_messages_logged():
        if is_embedded(config):
            _start_or_explain(config)
        else:
            connect(config.address)
        _silence_ray_loggers()
        try:
            with _ray_warnings_ignored():
                yield
        finally:
            ray.shutdown()


def is_embedded(config: ClusterConfig) -> bool:
    """Whether Ray is started in this process, rather than found."""
    address = os.environ.get("RAY_ADDRESS", "local")
    in_cluster = address != "local" or is_ray_job()
    return config.address == "local" or (config.address == "auto" and not in_cluster)


def _start_or_explain(config: ClusterConfig) -> None:
    """Start Ray in this process.

    Raises:
        ClusterError: it cannot be started.
    """
    place = ray_temporary_folder()
    free = shutil.disk_usage(place).free if os.path.isdir(place) else MINIMUM_FREE_BYTES
    if free < MINIMUM_FREE_BYTES:  # its processes would die one after another, and be started again
        raise ClusterError(
            f"Ray cannot be started: its temporary folder, {place}, has {free // 10**6} MB free, and needs "
            f"{MINIMUM_FREE_BYTES // 10**6} MB; free space there, or set RAY_TMPDIR to another disk"
        )
    try:
        _start_embedded(config)
    except Exception as error:  # Ray raises plain exceptions, too
        if "AF_UNIX" in str(error):
            raise ClusterError(
                f"Ray cannot be started: the path of the temporary folder, {ray_temporary_folder()}, is too "
                "long for the sockets in it, whose paths may have 107 bytes; set RAY_TMPDIR to a short one, "
                "such as /tmp"
            ) from error
        raise ClusterError(f"Ray cannot be started on this machine ({first_line(error)})") from error


def ray_temporary_folder() -> str:
    """The folder in which Ray makes its own, by the variables that Ray reads."""
    return os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()


def _start_embedded(config: ClusterConfig) -> None:
    """Start Ray in this process, without dashboard and usage report, and without output on the terminal."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
    _use_own_token()
    # A starting process mostly waits for the disk, so more processes than cores may start at once. Ray prints
    # a warning at four times this number of processes.
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
    # Idle processes that Ray keeps. By default they are as many as there are free CPUs, of which actors leave
    # hardly any on a small machine: tasks that run every few seconds would start their processes again.
    os.environ.setdefault("RAY_num_workers_soft_limit", "8")
    # Interval at which Ray Train polls its workers; the default of 2 s adds up over short trainings.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    start = partial(
        ray.init,
        address="local",
        _node_ip_address=LOOPBACK,
        num_cpus=max(MINIMUM_LOGICAL_CPUS, len(os.sched_getaffinity(0))),
        object_store_memory=int(config.object_store_gb * 1e9) if config.object_store_gb else None,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )
    with discarded_stderr(), signal_handlers_kept(), _on_loopback():
        try:
            start()
        except Exception:
            # On a busy machine Ray's limit of 30 s for its start may be too short. A permanent error is
            # raised again.
            ray.shutdown()
            start()


def _use_own_token() -> None:
    """Protect a Ray instance with a token of its own, unless the environment says how.

    Ray would write one into the home directory, which remains there and turns the authentication of every
    later `ray start` on: its clients then fail unless they are told of it.
    """
    if not any(name in os.environ for name in TOKEN_VARIABLES):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


@contextmanager
def _ray_warnings_ignored() -> Iterator[None]:
    """Ignore what Ray's Python code warns about, for example more actors than shards: the program has chosen
    these settings, and the user cannot change them. Errors are exceptions, not warnings."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\.")
        yield


@contextmanager
def _ray_messages_logged() -> Iterator[None]:
    """Log what the nodes of the cluster report to the driver, for example that many processes start, at the
    level DEBUG. Ray prints it. The causes of failures reach the user by `NodeStatus.report_failure`."""
    before = ray_worker.print_to_stdstream
    ray_worker.print_to_stdstream = _log_message
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before


def _log_message(data: Mapping[str, Any], ignore_prefix: bool) -> None:
    for line in data["lines"]:
        log.debug("%s: %s", data["pid"], line)


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let a Ray that starts meanwhile use the loopback address, to which all of its servers then bind.

    Ray replaces a loopback address by the machine's outer one, except where it supports no clusters (Windows
    and macOS). The variable for that is read when Ray is imported, but it must not hold for a process that
    connects to a cluster; so the constant itself is set.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _silence_ray_loggers() -> None:
    """Keep Ray's messages in its log files: the terminal shows the program's own progress and errors."""
    for name in ("ray", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Ray Data logs the full traceback of each dropped block. The cause reaches the user in one line, by
    # `NodeStatus.report_failure`.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
