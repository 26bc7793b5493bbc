"""Connect to the Ray cluster this process belongs to, or start one inside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import ray
import ray.data

from capfilt.cluster.config import ClusterConfig, ClusterError

MINIMUM_LOGICAL_CPUS = 4
"""A chain holds two model actors and a fetch actor while its read and write tasks need a slot too; on a machine
of fewer cores Ray's scheduler would wait for ever, so an embedded Ray counts at least this many."""


@contextmanager
def session(config: ClusterConfig) -> Iterator[None]:
    """Ray for the body's duration. Only a Ray that was started here is shut down here.

    Raises:
        ClusterError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    try:
        _connect(config)
    except Exception as error:  # Ray raises plain ones too
        if _is_embedded(config):
            raise ClusterError(f"Ray does not start on this machine ({_first_line(error)})") from error
        raise ClusterError(
            f"cluster.address: no Ray cluster answers at {config.address!r} ({_first_line(error)}); "
            "start one with `ray start --head`, or set cluster.address=local"
        ) from error
    _quieten()
    try:
        yield
    finally:
        ray.shutdown()


def _connect(config: ClusterConfig) -> None:
    if _is_embedded(config):
        cpus = max(MINIMUM_LOGICAL_CPUS, len(os.sched_getaffinity(0)))
        memory = int(config.object_store_gb * 1e9) if config.object_store_gb else None
        # No dashboard, no usage report: a laptop run starts in seconds and speaks to nobody.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # The C++ core prints its lines to the terminal, "error" for what is harmless here (kept in its files).
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        # More processes than cores may start at once: most of a start is waiting for the disk. Ray warns on the
        # terminal at four times this number of processes.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")
        # How often Ray Train looks whether its workers are done; its 2 s add up over a laptop's short trainings.
        os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        with _without_stderr():
            start = partial(
                ray.init,
                address="local",
                num_cpus=cpus,
                object_store_memory=memory,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.WARNING,
            )
            try:
                start()
            except Exception:
                # On a busy machine Ray's 30 s for starting may not do; what hinders it for good comes again.
                ray.shutdown()
                start()
        return
    address = None if config.address == "auto" else config.address
    ray.init(address=address or "auto", log_to_driver=False, logging_level=logging.WARNING)


def _is_embedded(config: ClusterConfig) -> bool:
    in_cluster = "RAY_ADDRESS" in os.environ or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    return config.address == "local" or (config.address == "auto" and not in_cluster)


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's C++ core greets on file descriptor 2 however quiet it is asked to be. What goes wrong while it starts
    comes as an exception, so nothing is lost."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _quieten() -> None:
    """Ray's own lines stay in its log files: the user sees this program's progress and errors, not the engine's."""
    for name in ("ray", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Of every block it drops Ray Data prints the whole trace; the node tells the cause in one line (`Step.tell`).
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
