"""Checks, on a cluster of several nodes, that all of them see the files that a config names."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.config.paths import SHARED_PLACES, check_absolute, named_paths
from capfilt.pipeline.config.schema import Config
from capfilt.stages.storage.local_files import TEMPORARY_PREFIX
from capfilt.stages.storage.s3_errors import describe_error
from capfilt.stages.storage.store import Store, StoreError

DRIVER_ONLY = ("shapes_dir", "clipart_dir", "serve", ".files")
"""Last part of the keys of folders that only the driver reads."""
WILDCARDS = "*?[{"

AskNodes = Callable[..., list[tuple[str, list[str]]]]
"""`cluster.nodes.ask_each_node`."""


@dataclass(frozen=True)
class Sight:
    """What the driver sees at a path, so that a node can say whether it sees the same."""

    key: str
    path: str
    """The path itself, or the deepest folder above its wildcards."""
    size: int | None
    """Bytes of a file; None for a folder."""
    entry: str | None = None
    """Name of a file or folder in a folder; None if it is empty."""

    def find_difference(self) -> str | None:
        """What this process sees instead, None if it sees the same."""
        if self.size is not None:
            if not os.path.isfile(self.path):
                return "is no file"
            found = os.path.getsize(self.path)
            return None if found == self.size else f"has {found} bytes instead of {self.size}"
        if not os.path.isdir(self.path):
            return "is no folder"
        if self.entry is not None and not os.path.lexists(os.path.join(self.path, self.entry)):
            return f"has no {self.entry}"
        return None


def check_shared_paths(config: Config, run_dir: Store, nodes: int, ask: AskNodes) -> None:
    """Check that every path that the config names is absolute and the same on all nodes.

    The driver writes a file into the run directory, which a task on each node reads; of inputs, which may be
    read-only, size or one entry is compared. A cluster of one node is not asked.

    Args:
        run_dir: an object store is tried too: a node may lack the credentials.
        nodes: of the cluster.
        ask: calls a function on each node.

    Raises:
        ConfigError: the first path that is relative, or that some nodes do not see.
        StoreError: some nodes cannot read the run directory.
    """
    if nodes < 2:
        return
    check_absolute(config, f"the {nodes} nodes of this cluster have different working directories")
    sights = [_look(named.key, os.path.expanduser(named.path)) for named in named_paths(config)
              if named.key != "run.dir" and not named.key.endswith(DRIVER_ONLY)]  # fmt: skip
    probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
    run_dir.put(probe, probe.encode())
    try:
        answers = ask(list_differences, run_dir, probe, [sight for sight in sights if sight is not None])
    finally:
        run_dir.remove_file(probe)
    problems: dict[str, list[str]] = {}
    for address, lines in answers:
        for line in lines:
            problems.setdefault(line, []).append(address)
    for line, addresses in problems.items():
        kind = StoreError if line.startswith("run.dir") else ConfigError
        raise kind(
            f"{line} on {_count(addresses, len(answers))}; use {SHARED_PLACES}, mounted at the same place on "
            "every node"
        )


def list_differences(run_dir: Store, probe: str, sights: Iterable[Sight]) -> list[str]:
    """What this node sees otherwise than the driver; runs as a task on each node.

    Args:
        probe: a file that the driver has written into the run directory; it contains its own name.

    Returns:
        One line for each path, without the node.
    """
    found = []
    try:
        if run_dir.read(probe) != probe.encode():
            found.append(f"run.dir: {run_dir.url} is another folder")
    except FileNotFoundError:
        found.append(f"run.dir: {run_dir.url} lacks the file that this process has just written there")
    except Exception as error:  # any library's: no credentials, unreachable, not permitted
        cause: Any = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
        found.append(f"run.dir: {run_dir.url} cannot be read ({describe_error(cause)})")
    for sight in sights:
        if (difference := sight.find_difference()) is not None:
            found.append(f"{sight.key}: {sight.path} {difference}")
    return found


def _look(key: str, path: str) -> Sight | None:
    """What this process sees at a path; None if there is nothing, which the checks of inputs report."""
    while not os.path.exists(path) and any(mark in path for mark in WILDCARDS):
        path = os.path.dirname(path)
    if os.path.isfile(path):
        return Sight(key, path, os.path.getsize(path))
    if not os.path.isdir(path):
        return None
    with os.scandir(path) as entries:
        first = next(entries, None)
    return Sight(key, path, None, None if first is None else first.name)


def _count(addresses: list[str], nodes: int) -> str:
    names = ", ".join(dict.fromkeys(addresses))
    return f"{len(addresses)} of {nodes} nodes ({names})"
