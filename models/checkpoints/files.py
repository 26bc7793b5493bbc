"""Checkpoints as files: their names, their digest, and the error for unusable ones.

Does not import torch: the driver computes digests and reports errors without reading tensors.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
PICKLED_WEIGHTS = "pytorch_model.bin"  # transformers folders from before safetensors
DIGESTED_FILES = (WEIGHTS, PICKLED_WEIGHTS, CONFIG, "tokenizer.json", "vocab.txt")
MAX_NAMES_SHOWN = 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as requested. The three lists name all offending tensors."""

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        misshaped: Sequence[str] = (),
    ) -> None:
        self.missing, self.unexpected, self.misshaped = list(missing), list(unexpected), list(misshaped)
        kinds = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped}
        details = [f"{len(names)} {kind}: {_abbreviate(names)}" for kind, names in kinds.items() if names]
        super().__init__("; ".join([message, *details]))


def _abbreviate(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def checkpoint_digest(path: str | Path) -> str:
    """SHA-256 (hex) of the files that determine the model's output: weights, config and tokenizer.

    Raises:
        CheckpointError: there is no checkpoint at `path`.
    """
    path = Path(path)
    files = [path] if path.is_file() else [path / name for name in DIGESTED_FILES if (path / name).is_file()]
    if not files:
        raise CheckpointError(f"no checkpoint at {path}: expected a checkpoint folder or a .pth file")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        # The name of a .pth file is arbitrary; inside a folder the name tells what a file is for.
        total.update(f"{file.name if path.is_dir() else ''}:{digest}\n".encode())
    return total.hexdigest()
