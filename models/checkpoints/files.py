"""What a checkpoint is on disk: its files' names, their digest, and the error for one that cannot be used.

Without torch: a driver fingerprints and refuses checkpoints, and never opens their tensors.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
PICKLED_WEIGHTS = "pytorch_model.bin"  # transformers folders from before safetensors
DIGESTED = (WEIGHTS, PICKLED_WEIGHTS, CONFIG, "tokenizer.json", "vocab.txt")
NAMES_SHOWN = 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as asked. The three lists name every tensor at fault."""

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
        found = [f"{len(names)} {kind}: {_shown(names)}" for kind, names in kinds.items() if names]
        super().__init__("; ".join([message, *found]))


def _shown(names: Sequence[str]) -> str:
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def checkpoint_digest(path: str | Path) -> str:
    """SHA-256 (hex) of what determines a model's output: weights, config and tokenizer, not provenance."""
    path = Path(path)
    files = [path] if path.is_file() else [path / name for name in DIGESTED if (path / name).is_file()]
    if not files:
        raise CheckpointError(f"no checkpoint at {path}: give a checkpoint folder or a .pth file")
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        # A lone .pth may be renamed; inside a folder the name says what the bytes are for.
        total.update(f"{file.name if path.is_dir() else ''}:{digest}\n".encode())
    return total.hexdigest()
