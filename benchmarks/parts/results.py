"""Where benchmarks store their results, and the description of the machine in those of models."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "results"


def describe_machine(device: str) -> dict[str, Any]:
    """Hardware and versions that a measurement depends on."""
    import torch  # which benchmarks without models do not need

    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def store_report(name: str, report: dict[str, Any]) -> None:
    """Write benchmarks/results/<name>.json and print its path."""
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(f"stored in {target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target}")
