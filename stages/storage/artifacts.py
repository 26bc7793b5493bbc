"""Makes checkpoints and tokenizers available as local files; those that are not local are copied once per
machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from capfilt.models.disk_errors import describe_disk_error
from capfilt.stages.errors import UserError
from capfilt.stages.storage.filesystems import open_filesystem, protocol_of
from capfilt.stages.storage.hub import HubError, download, is_on_hub
from capfilt.stages.storage.store import Store

RemoteFile = tuple[str, int | None]
"""Path of a file on its filesystem, and its size in bytes if the filesystem states it."""
VERSION_KEYS = ("ETag", "blob_id", "md5Hash", "mtime", "LastModified")
"""Keys under which filesystems say which version of a file they hold, the most exact first."""


class ArtifactError(UserError):
    """An input file, such as a checkpoint, cannot be read; the message names its config key and address."""


def absolute_address(address: str) -> str:
    """The address as an absolute path or URL, because Ray's workers have other working directories."""
    return address if "://" in address else os.path.abspath(os.path.expanduser(address))


def check_artifact(address: str, key: str, run_dir: Store | None = None) -> None:
    """Check that there is a file or folder at the address, without copying it.

    Arguments and errors are those of `ensure_local`. Of a repository of the hub the small files are copied.
    """
    if is_on_hub(address):
        _download_from_hub(address, key, with_weights=False)
    else:
        _locate(address, key, run_dir)


def measure_artifact(address: str, key: str, run_dir: Store | None = None) -> int | None:
    """Bytes of a file, or of all files of a folder, without copying them; None of a repository of the hub.

    Arguments and errors are those of `ensure_local`.
    """
    if is_on_hub(address):
        return None
    found = _locate(address, key, run_dir)
    if isinstance(found, Path):
        files = found.rglob("*") if found.is_dir() else [found]
        return sum(file.stat().st_size for file in files if file.is_file())
    return sum(info.get("size") or 0 for info in found[2].values())


def ensure_local(address: str, key: str, run_dir: Store | None = None) -> str:
    """Local path of a file or folder; it is copied to this machine if it is not local.

    Args:
        address: path, fsspec URL (s3://, gs://), or repository of the hub (hf://org/name), which is kept in
            the hub's own cache.
        key: the config key that names the address, for messages.
        run_dir: the run directory; addresses with the same protocol are opened with its storage options.

    Raises:
        ArtifactError: there is nothing at the address, or it cannot be read.
    """
    if is_on_hub(address):
        return str(_download_from_hub(address, key, with_weights=not key.endswith(".tokenizer")))
    found = _locate(address, key, run_dir)
    if isinstance(found, Path):
        return str(found)
    fs, path, listing = found
    copy = _own_cache_folder(key) / _cache_key(address, path, listing)
    # Names relative to the copy; the name of a checkpoint of one file is empty.
    files = {name.removeprefix(path).lstrip("/"): (name, info.get("size")) for name, info in listing.items()}
    try:
        if not _is_intact(copy, files):
            _download(fs, files, copy)
    except Exception as error:  # any library's, or a full disk
        if (message := describe_disk_error(error, copy)) is not None:
            raise ArtifactError(f"{key}: {message}; TMPDIR sets the folder of the copies") from error
        raise _read_error(address, key, error) from error
    return str(copy)


def _download_from_hub(address: str, key: str, *, with_weights: bool) -> Path:
    try:
        return download(address, with_weights=with_weights)
    except HubError as error:
        raise ArtifactError(f"{key}: {error}") from error


def cache_folder() -> Path:
    """Folder of this user's copies on this machine."""
    return Path(tempfile.gettempdir()) / f"capfilt-artifacts-{os.getuid()}"


def _own_cache_folder(key: str) -> Path:
    """The cache folder, which only this user can write; made if it does not exist.

    Anyone may make a folder in the system's temporary folder, so an existing one is not trusted by its name.

    Raises:
        ArtifactError: it belongs to someone else, others can write in it, or it is no folder.
    """
    folder = cache_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise ArtifactError(
            f"{key}: cannot use {folder} for copies ({error}); remove it or set TMPDIR"
        ) from error
    owned = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not owned or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ArtifactError(
            f"{key}: {folder} is not a folder that only you can write, so its copies cannot be trusted; "
            "remove it, or set TMPDIR to a folder of your own"
        )
    folder.chmod(0o700)
    return folder


def _locate(address: str, key: str, run_dir: Store | None) -> Path | tuple[Any, str, dict[str, Any]]:
    """An existing local path, or (filesystem, path in it, {file: what the filesystem says about it})."""
    if "://" not in address:
        local = Path(address).expanduser().absolute()
        if not local.exists():
            raise ArtifactError(
                f"{key}: nothing at {address}; give a checkpoint folder or file, or a URL such as hf://org/name"
            )
        return local
    options = (
        run_dir.options if run_dir is not None and protocol_of(run_dir.url) == protocol_of(address) else {}
    )
    try:
        fs, path = open_filesystem(address, options)
        listing = fs.find(path, detail=True)
    except Exception as error:  # any library's: access denied, unreachable, no such bucket, no credentials
        raise _read_error(address, key, error) from error
    if not listing:
        raise ArtifactError(f"{key}: nothing at {address}; give an existing checkpoint folder or file")
    return fs, path, listing


def _read_error(address: str, key: str, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{key}: cannot read {address} ({type(error).__name__}: {' '.join(str(error).split())})"
    )


def _cache_key(address: str, path: str, listing: Mapping[str, Mapping[str, Any]]) -> str:
    """Name of the copy; it changes with the content, so that a model that was replaced is copied again."""
    digest = hashlib.sha256(f"{address}\n".encode())
    for name, info in sorted(listing.items()):
        version = next((info[key] for key in VERSION_KEYS if info.get(key)), "")
        digest.update(f"{name.removeprefix(path)}\0{info.get('size')}\0{version}\n".encode())
    return digest.hexdigest()[:16]


def _is_complete(copy: Path, files: Mapping[str, RemoteFile]) -> bool:
    """Whether all files exist with their sizes; the system may have removed old files from the temporary
    folder."""
    return all(
        (copy / name).is_file() and size in (None, (copy / name).stat().st_size)
        for name, (_, size) in files.items()
    )


def _is_intact(copy: Path, files: Mapping[str, RemoteFile]) -> bool:
    """Whether a copy is complete and every file has the content that was copied.

    The contents are read once per process.
    """
    if not _is_complete(copy, files):
        return False
    record = _digests_file(copy)
    try:
        expected = json.loads(record.read_bytes())
    except (FileNotFoundError, ValueError):  # a copy of an earlier version, or a damaged record
        return False
    found = (str(copy), record.stat().st_mtime_ns)
    if found not in _verified and _digests(copy, files) == expected:
        _verified.add(found)
    return found in _verified


_verified: set[tuple[str, int]] = set()
"""Copies whose contents this process has read, with the time of their digests."""


def _digests_file(copy: Path) -> Path:
    return copy.with_name(f".{copy.name}.sha256.json")


def _digests(copy: Path, files: Mapping[str, RemoteFile]) -> dict[str, str]:
    digests = {}
    for name in sorted(files):
        with (copy / name).open("rb") as stream:
            digests[name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _download(fs: Any, files: Mapping[str, RemoteFile], copy: Path) -> None:
    """Copy the files to a temporary folder and rename it, so that no process sees an incomplete checkpoint.

    One process of a machine copies while the others wait for its lock. The system releases the lock of a
    process that is killed; the next process removes what that one left.

    Raises:
        OSError: the disk is full, or a file is shorter than its filesystem says.
    """
    temporary = copy.with_name(f".{copy.name}")
    with FileLock(copy.with_name(f".{copy.name}.lock")):
        if _is_intact(copy, files):
            return
        _remove(copy)
        _remove(temporary)
        try:
            for name, (source, _) in files.items():
                target = temporary / name
                target.parent.mkdir(parents=True, exist_ok=True)
                fs.get_file(source, str(target))
            if not _is_complete(temporary, files):
                raise OSError(f"the copy of its {len(files)} files is incomplete")
            _digests_file(copy).write_text(json.dumps(_digests(temporary, files)))
            temporary.rename(copy)
        finally:
            _remove(temporary)


def _remove(path: Path) -> None:
    """Remove a file, or a folder with its contents, if it exists."""
    shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
