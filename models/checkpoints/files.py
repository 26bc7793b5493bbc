"""Checkpoints as files: their names, their digest, and the error for unusable ones.

Does not import torch: the driver computes digests and reports errors without reading tensors.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from capfilt.models.disk_errors import describe_disk_error

WEIGHTS, CONFIG, PROVENANCE = "model.safetensors", "config.json", "provenance.json"
PICKLED_WEIGHTS = "pytorch_model.bin"  # transformers folders from before safetensors
# Large models of transformers are in several files, which an index names.
SHARD_INDEXES = (f"{WEIGHTS}.index.json", f"{PICKLED_WEIGHTS}.index.json")
DIGESTED_FILES = (WEIGHTS, PICKLED_WEIGHTS, CONFIG, "tokenizer.json", "vocab.txt")
POINTER = b"version https://git-lfs.github.com/spec/"  # first bytes of a file that stands for a larger one
MAX_NAMES_SHOWN = 20


class CheckpointError(ValueError):
    """A checkpoint that cannot be used as requested. The lists name all offending tensors."""

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        unexpected: Sequence[str] = (),
        misshaped: Sequence[str] = (),
        not_finite: Sequence[str] = (),
    ) -> None:
        self.missing, self.unexpected, self.misshaped = list(missing), list(unexpected), list(misshaped)
        kinds = {
            "missing": missing,
            "unexpected": unexpected,
            "mis-shaped": misshaped,
            "not finite": not_finite,
        }
        details = [f"{len(names)} {kind}: {_abbreviate(names)}" for kind, names in kinds.items() if names]
        super().__init__("; ".join([message, *details]))


def _abbreviate(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMES_SHOWN
    return ", ".join(names[:MAX_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def explain_disk_errors(path: str | Path) -> Iterator[None]:
    """Raise CheckpointError, which names the checkpoint and says what to do, if the disk takes no more data
    while the body writes it."""
    try:
        yield
    except Exception as error:  # safetensors raises a type of its own
        message = describe_disk_error(error, path)
        if message is None:
            raise
        raise CheckpointError(message) from error


def refuse_pointer(file: Path) -> None:
    """Raise CheckpointError if the file is a pointer of Git LFS, which a clone without LFS leaves in place of
    a large file."""
    with file.open("rb") as stream:
        if stream.read(len(POINTER)) == POINTER:
            raise CheckpointError(
                f"{file} is a Git LFS pointer, not the file itself: run `git lfs pull` in {file.parent}"
            )


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a folder's tensors: one file, or those that an index names; none if there are no
    weights.

    Raises:
        CheckpointError: the index is damaged, or a file that it names is missing.
    """
    for name in (WEIGHTS, PICKLED_WEIGHTS):
        if (folder / name).is_file():
            return [folder / name]
    index = next((folder / name for name in SHARD_INDEXES if (folder / name).is_file()), None)
    return [] if index is None else _indexed_files(index)


def _indexed_files(index: Path) -> list[Path]:
    refuse_pointer(index)
    weight_map = read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    # A name with a folder in it could reach any file of the machine.
    if not names or not all(isinstance(name, str) and name == Path(name).name for name in names):
        raise CheckpointError(f"{index} has no valid weight_map: expected the file name of each tensor")
    absent = sorted(name for name in names if not (index.parent / name).is_file())
    if absent:
        raise CheckpointError(
            f"{index.parent} lacks {_abbreviate(absent)}, which {index.name} names: "
            "check that the folder is complete"
        )
    return [index.parent / name for name in sorted(names)]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: the file is no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} contains a {type(content).__name__}: expected an object")
    return content


def checkpoint_digest(path: str | Path) -> str:
    """SHA-256 (hex) of the files that determine the model's output: weights, config and tokenizer.

    Raises:
        CheckpointError: there is no checkpoint at `path`.
    """
    return combine_digests(file_digests(path))


def combine_digests(digests: Mapping[str, str]) -> str:
    """The digest of a checkpoint whose files have these digests (`file_digests`)."""
    total = hashlib.sha256()
    for name, digest in digests.items():
        total.update(f"{name}:{digest}\n".encode())
    return total.hexdigest()


def file_digests(path: str | Path) -> dict[str, str]:
    """SHA-256 (hex) of each file that determines the model's output, by name.

    The name of a checkpoint that is one file is empty, because such names are arbitrary. Inside a folder the
    name tells what a file is for.

    Raises:
        CheckpointError: there is no checkpoint at `path`.
    """
    path = Path(path)
    files = [path] if path.is_file() else [path / name for name in DIGESTED_FILES if (path / name).is_file()]
    if path.is_dir() and not (path / WEIGHTS).is_file() and not (path / PICKLED_WEIGHTS).is_file():
        shards = weight_files(path)
        indexes = [path / name for name in SHARD_INDEXES if (path / name).is_file()]
        files += [*indexes[:1], *shards]
    if not files:
        raise CheckpointError(f"no checkpoint at {path}: expected a checkpoint folder or a .pth file")
    return {file.name if path.is_dir() else "": _file_digest(file) for file in files}


def _file_digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
