"""Operations on object stores that need more than one fsspec call: find, create exclusively, remove."""

from __future__ import annotations

import glob
import random
import time
from typing import Any

from capfilt.stages.storage.s3_errors import (
    CONDITIONAL_CONFLICT,
    INVALID_RANGE,
    NO_SUCH_BUCKET,
    PRECONDITION_FAILED,
    code_of,
)

ATTEMPTS = 4
"""Attempts at a creation that meets other writers, and at a removal that leaves objects."""


def find_object(fs: Any, path: str) -> bytes | None:
    """The content of a small object, None if it is absent; one request in both cases.

    Raises:
        Exception: any error of the store's libraries; FileNotFoundError if the bucket is absent.
    """
    try:
        # Without a start s3fs requests the size first.
        return bytes(fs.cat_file(path, start=0))
    except FileNotFoundError as error:
        if code_of(error) == NO_SUCH_BUCKET:
            raise
        return None
    except OSError as error:
        if code_of(error) == INVALID_RANGE:  # an object of no bytes
            return b""
        raise


def create_object(fs: Any, path: str, data: bytes) -> bool:
    """Write an object only if it is absent.

    Returns:
        True if this call created the object, or if it exists with the same content; False if it exists with
        other content.

    Raises:
        OSError: other writers interfered in each attempt.
        Exception: any other error of the store's libraries.
    """
    for _ in range(ATTEMPTS):
        try:
            fs.pipe_file(path, data, mode="create")
            return True
        except Exception as error:
            if isinstance(error, FileExistsError) or code_of(error) in PRECONDITION_FAILED:
                # A request whose response was lost is sent again and meets the object that it created itself.
                return find_object(fs, path) == data
            if code_of(error) != CONDITIONAL_CONFLICT:
                raise
        time.sleep(random.uniform(0, 1))
    raise OSError(f"other writers interfered in each of {ATTEMPTS} attempts")


def remove_objects(fs: Any, path: str, suffix: str = "") -> None:
    """Remove all objects at and below `path` whose names end with `suffix`.

    Raises:
        OSError: some objects remain, even if the store reported success.
        Exception: any other error of the store's libraries.
    """
    # s3fs ignores keys that S3 could not delete, so only a new listing shows whether all are removed.
    for _ in range(ATTEMPTS):
        remaining = _list_objects(fs, path, suffix)
        if not remaining:
            return
        if glob.has_magic(path):  # fsspec would take the names in a list as patterns
            for name in remaining:
                fs.rm_file(name)
        else:
            fs.rm(remaining)
    if remaining := _list_objects(fs, path, suffix):
        raise OSError(f"{len(remaining)} files remain, for example {remaining[0]}")


def _list_objects(fs: Any, path: str, suffix: str) -> list[str]:
    return [name for name in fs.find(path) if name.endswith(suffix)]
