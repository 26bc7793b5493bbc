"""Writing and removing files on a local disk."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

TEMPORARY_PREFIX = ".tmp-"
"""Names of unfinished files begin with this."""
NO_HARD_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
"""Errors of a hard link where the filesystem has none, or the file has no room for one more name."""


def write_temporary(path: str, data: bytes) -> str:
    """Write `data` under a temporary name beside `path`, flushed to disk.

    Returns:
        Path of the temporary file; the caller renames or links it.

    Raises:
        OSError: the write failed; the temporary file is removed.
    """
    return _fill_temporary(path, lambda stream: stream.write(data))


def copy_temporary(path: str, source: str) -> str:
    """Like `write_temporary`, with the content of the file `source`."""
    with open(source, "rb") as content:
        return _fill_temporary(path, lambda stream: shutil.copyfileobj(content, stream))


def _fill_temporary(path: str, write: Callable[[BinaryIO], object]) -> str:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = _temporary_name(path)
    try:
        with open(temporary, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    return temporary


def publish(temporary: str, path: str) -> bool:
    """Give a temporary file its final name, unless a file has that name; the temporary name goes.

    Returns:
        Whether the file has it now.
    """
    try:
        # A hard link is atomic and fails if the name exists; a rename would replace the file.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    return True


def remove(path: str, first: str) -> None:
    """Remove a file, or a folder with its contents: the files whose names end with `first` before the others.
    Nothing happens if it is absent."""
    if os.path.isdir(path):
        for file in Path(path).rglob(f"*{first}"):
            file.unlink(missing_ok=True)
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def link(source: str, path: str) -> None:
    """Give a file a second name, replacing a file of that name. On a filesystem without hard links, copy it.

    Files are only ever replaced, never changed in place, so that the two names do not affect each other.
    """
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = _temporary_name(path)
    try:
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in NO_HARD_LINKS:
                raise
            shutil.copyfile(source, temporary)
        os.replace(temporary, path)
    finally:
        # A rename of one name to another of the same file does nothing, and leaves both.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def _temporary_name(path: str) -> str:
    folder, base = os.path.split(path)
    return os.path.join(folder, f"{TEMPORARY_PREFIX}{base}-{uuid.uuid4().hex[:8]}")


def remove_temporaries(folder: str, prefix: str = "") -> None:
    """Remove temporary files directly inside `folder`; nothing happens if the folder is absent.

    Args:
        folder: a local folder that no other process writes to.
        prefix: remove only temporaries of files whose final names begin with this.
    """
    path = Path(folder)
    if path.is_dir():
        for temporary in path.glob(f"{TEMPORARY_PREFIX}{prefix}*"):
            temporary.unlink(missing_ok=True)
