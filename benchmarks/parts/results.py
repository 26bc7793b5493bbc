"""Where benchmarks store their results, and the description of the machine in those of models."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

FOLDER = "BENCHMARK_RESULTS"
"""Environment variable with another folder than benchmarks/results, for runs that decide nothing."""


def describe_machine(device: str) -> dict[str, Any]:
    """Hardware and versions that a measurement depends on."""
    import torch  # which benchmarks without models do not need

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def store_report(name: str, report: Any) -> None:
    """Write benchmarks/results/<name>.json and print its path."""
    target = _file(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(f"stored in {target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target}")


def read_report(name: str) -> dict[str, Any]:
    """What is stored under this name; {} if nothing is."""
    found: dict[str, Any] = json.loads(_file(name).read_text()) if _file(name).exists() else {}
    return found


def _file(name: str) -> Path:
    folder = os.environ.get(FOLDER) or Path(__file__).parent.parent / "results"
    return Path(folder) / f"{name}.json"
