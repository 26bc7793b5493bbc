"""The modules of models that say so do not import torch."""

import subprocess
import sys
from pathlib import Path

import pytest

MODULES = (
    "caption_text",
    "config",
    "out_of_memory",
    "decoding.config",
    "checkpoints.files",
    "images.decode",
    "tasks.options",
)


@pytest.mark.parametrize("module", MODULES)
def test_the_module_does_not_import_torch(module: str) -> None:
    code = f"import sys, capfilt.models.{module}; print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.strip() == "False"
