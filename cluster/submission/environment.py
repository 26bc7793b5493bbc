"""The Python environment of a submitted run: that of the nodes, or the packages of the shipped lock."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

LOCK = Path(__file__).parent.parent / "launch" / "docker" / "requirements.lock"
"""Every dependency with its version; the image is made from it, too."""
PRESENT = ("ray",)
"""Packages that the nodes run already and that a job's environment cannot replace."""
_PINNED = re.compile(r"^([\w.-]+)==([^\s;\\]+)\s*(;[^\\\n]*)?", re.MULTILINE)


def locked_versions(lock: str) -> dict[str, str]:
    """{package: version} of a lock file."""
    return {match[1]: match[2] for match in _PINNED.finditer(lock)}


def runtime_env(kind: str, variables: dict[str, str]) -> dict[str, Any]:
    """Ray's `runtime_env` of a job, without its working directory.

    Args:
        kind: `image`: the nodes have the dependencies; `lock`: each node installs the locked versions into an
            environment of its own, once, and keeps it for later jobs.
        variables: of the environment of driver and workers.
    """
    environment: dict[str, Any] = {"env_vars": variables}
    if kind == "lock":
        lines = [
            f"{name}=={version}{(marker or '').rstrip()}"
            for name, version, marker in _PINNED.findall(LOCK.read_text(encoding="utf-8"))
            if name not in PRESENT
        ]
        environment["pip"] = {"packages": lines, "pip_check": False}
    return environment
