"""Checkpoints and tokenizers by address: a local path as it is, anything else copied once per machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from capfilt.stages.errors import UserError
from capfilt.stages.storage.filesystems import open_filesystem, protocol_of
from capfilt.stages.storage.store import Store

Part = tuple[str, int | None]
"""A file of a checkpoint: its path on its filesystem, and its size."""


class ArtifactError(UserError):
    """A checkpoint or tokenizer that cannot be had; the message names the config key, the address and the way out."""


def absolute(address: str) -> str:
    """The address in a form that means the same in every process: Ray's workers have their own directories."""
    return address if "://" in address else os.path.abspath(os.path.expanduser(address))


def check_artifact(address: str, key: str, run: Store | None = None) -> None:
    """There is something at the address; arguments and errors as for `local_artifact`, and nothing is copied."""
    _find(address, key, run)


def local_artifact(address: str, key: str, run: Store | None = None) -> str:
    """Local path of a file or folder given by path or fsspec URL (s3://, gs://, hf://org/name).

    Args:
        address: what the user or the run's ledger named.
        key: the config key it came from, for the message.
        run: the run directory; an address on the same kind of store is opened with its options.

    Raises:
        ArtifactError: nothing is there, or it cannot be reached.
    """
    found = _find(address, key, run)
    if isinstance(found, Path):
        return str(found)
    fs, path, files = found
    target = copies_folder() / _identity(address, path, files)
    # Relative to the copy; a checkpoint that is one file has no name in it.
    parts = {name.removeprefix(path).lstrip("/"): (name, info.get("size")) for name, info in files.items()}
    try:
        if not _is_whole(target, parts):
            _download(fs, parts, target)
    except Exception as error:  # any library's, or no room
        raise _unreadable(address, key, error) from error
    return str(target)


def _find(address: str, key: str, run: Store | None) -> Path | tuple[Any, str, dict[str, Any]]:
    """A local path, or (filesystem, path on it, its files with what is known of each)."""
    if "://" not in address:
        local = Path(address).expanduser().absolute()
        if not local.exists():
            raise ArtifactError(
                f"{key}: nothing at {address}; give a checkpoint folder or file, or a URL such as hf://org/name"
            )
        return local
    options = run.options if run is not None and protocol_of(run.url) == protocol_of(address) else {}
    try:
        fs, path = open_filesystem(address, options)
        files = fs.find(path, detail=True)
    except Exception as error:  # any library's: denied, unreachable, no such bucket, no credentials
        raise _unreadable(address, key, error) from error
    if not files:
        raise ArtifactError(f"{key}: nothing at {address}; give an existing checkpoint folder or file")
    return fs, path, files


def _unreadable(address: str, key: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{key}: cannot read {address} ({type(error).__name__}: {' '.join(str(error).split())})"
    )


def _identity(address: str, path: str, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Changes with what is there: a model that was made again at its old address is copied again."""
    digest = hashlib.sha256(f"{address}\n".encode())
    for name, info in sorted(files.items()):
        mark = next(
            (info[m] for m in ("ETag", "blob_id", "md5Hash", "mtime", "LastModified") if info.get(m)), ""
        )
        digest.update(f"{name.removeprefix(path)}\0{info.get('size')}\0{mark}\n".encode())
    return digest.hexdigest()[:16]


def copies_folder() -> Path:
    """Where this user's copies lie on this machine."""
    return Path(tempfile.gettempdir()) / f"capfilt-artifacts-{os.getuid()}"


def _is_whole(copy: Path, parts: Mapping[str, Part]) -> bool:
    """Whether all files are there: what lies long among temporary files may be removed by the system, one by one."""
    return all(
        (copy / name).is_file() and size in (None, (copy / name).stat().st_size)
        for name, (_, size) in parts.items()
    )


def _download(fs: Any, parts: Mapping[str, Part], target: Path) -> None:
    """Copy under a temporary name and rename, so that two processes of a machine never see half a checkpoint. One
    copies while the others wait; the system gives the lock back if it is killed, and the next removes what it left.

    Raises:
        OSError: no room, or less came than there is.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}")
    with FileLock(target.with_name(f".{target.name}.lock")):
        if _is_whole(target, parts):
            return
        _remove(target)
        _remove(temporary)
        try:
            for name, (original, _) in parts.items():
                copy = temporary / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(original, str(copy))
            if not _is_whole(temporary, parts):
                raise OSError(f"less came than its {len(parts)} files hold")
            temporary.rename(target)
        finally:
            _remove(temporary)


def _remove(path: Path) -> None:
    """A file, or a folder with all it holds, or nothing."""
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
