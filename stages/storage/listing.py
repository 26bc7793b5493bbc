"""When the files of a folder were written, and how large they are, by one listing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from capfilt.stages.storage.local_files import TEMPORARY_PREFIX
from capfilt.stages.storage.store import Store, StoreError


def modification_times(store: Store, folder: str, suffix: str = "") -> dict[str, float]:
    """{name: Unix time in seconds of its last modification} of the files directly inside a folder that end
    with `suffix`, without temporary files; {} if the folder is absent. Costs one listing.

    Raises:
        StoreError: the store cannot be reached.
    """
    return {name: time for name, (time, _) in _list(store, folder) if name.endswith(suffix)}


def file_sizes(store: Store, folder: str) -> dict[str, int]:
    """{name: bytes} of the files directly inside a folder, without temporary files; {} if the folder is
    absent. Costs one listing.

    Raises:
        StoreError: the store cannot be reached.
    """
    return {name: size for name, (_, size) in _list(store, folder)}


def _list(store: Store, folder: str) -> list[tuple[str, tuple[float, int]]]:
    """Sorted (name, (Unix time in seconds, bytes))."""
    try:
        found = list(_local(store.path(folder)) if store.is_local else _remote(store, folder))
    except FileNotFoundError:
        return []
    return sorted(entry for entry in found if not entry[0].startswith(TEMPORARY_PREFIX))


def _local(path: str) -> Iterator[tuple[str, tuple[float, int]]]:
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                if entry.is_file():
                    status = entry.stat()
                    yield entry.name, (status.st_mtime, status.st_size)
            except FileNotFoundError:
                continue  # removed since the listing


def _remote(store: Store, folder: str) -> Iterator[tuple[str, tuple[float, int]]]:
    try:
        entries: list[dict[str, Any]] = store.fs.ls(store.path(folder), detail=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # any library's
        raise StoreError(f"{store.address(folder)}: cannot list it ({error})") from error
    for entry in entries:
        if entry["type"] == "file":
            yield entry["name"].rpartition("/")[2], (_seconds(entry), entry["size"])


def _seconds(entry: dict[str, Any]) -> float:
    """Time of a listed object; stores call it differently."""
    for name in ("LastModified", "mtime", "last_modified", "updated", "created"):
        value = entry.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
        if isinstance(value, str):
            return datetime.fromisoformat(value).timestamp()
    return 0.0
