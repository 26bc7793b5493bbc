"""Checkpoints and tokenizers by address: a local path as it is, anything else copied once per machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from stages.storage import open_filesystem, protocol_of
from stages.store import Store


class ArtifactError(ValueError):
    """A checkpoint or tokenizer that cannot be had; the message names the config key, the address and the way out."""


def absolute(address: str) -> str:
    """The address in a form that means the same in every process: Ray's workers have their own directories."""
    return address if "://" in address else os.path.abspath(os.path.expanduser(address))


def local_artifact(address: str, key: str, run: Store | None = None) -> str:
    """Local path of a file or folder given by path or fsspec URL (s3://, gs://, hf://org/name).

    Args:
        address: what the user or the run's ledger named.
        key: the config key it came from, for the message.
        run: the run directory; an address on the same kind of store is opened with its options.

    Raises:
        ArtifactError: nothing is there, or it cannot be reached.
    """
    if "://" not in address:
        local = Path(address).expanduser().absolute()
        if not local.exists():
            raise ArtifactError(
                f"{key}: nothing at {address}; give a checkpoint folder or file, or a URL such as hf://org/name"
            )
        return str(local)
    options = run.options if run is not None and protocol_of(run.url) == protocol_of(address) else {}
    try:
        fs, path = open_filesystem(address, options)
        files = fs.find(path, detail=True)
        if not files:
            raise ArtifactError(f"{key}: nothing at {address}; give an existing checkpoint folder or file")
        folder = Path(tempfile.gettempdir()) / f"capfilt-artifacts-{os.getuid()}"
        target = folder / _identity(address, path, files)
        if not target.exists():
            _download(fs, path, files, target)
    except ArtifactError:
        raise
    except Exception as error:  # any library's: denied, unreachable, no such bucket, no credentials
        cause = " ".join(str(error).split())
        raise ArtifactError(f"{key}: cannot read {address} ({type(error).__name__}: {cause})") from error
    return str(target)


def _identity(address: str, path: str, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Changes with what is there: a model that was made again at its old address is copied again."""
    digest = hashlib.sha256(f"{address}\n".encode())
    for name, info in sorted(files.items()):
        mark = next(
            (info[m] for m in ("ETag", "blob_id", "md5Hash", "mtime", "LastModified") if info.get(m)), ""
        )
        digest.update(f"{name.removeprefix(path)}\0{info.get('size')}\0{mark}\n".encode())
    return digest.hexdigest()[:16]


def _download(fs: Any, path: str, files: Iterable[str], target: Path) -> None:
    """Copy under a temporary name and rename, so that two processes of a machine never see half a checkpoint."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        for file in files:
            inside = file.removeprefix(path).lstrip("/")
            copy = temporary / inside if inside else temporary  # the address is a file
            copy.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(file, str(copy))
        os.rename(temporary, target)
    except OSError:
        if not target.exists():  # else another process was first, and its copy serves
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)
