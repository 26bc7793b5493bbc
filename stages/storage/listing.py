"""When the files of a folder were written, by one listing."""

from __future__ import annotations

import os
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
    try:
        found = _local(store.path(folder)) if store.is_local else _remote(store, folder)
    except FileNotFoundError:
        return {}
    names = (name for name in sorted(found) if name.endswith(suffix))
    return {name: found[name] for name in names if not name.startswith(TEMPORARY_PREFIX)}


def _local(path: str) -> dict[str, float]:
    times = {}
    with os.scandir(path) as entries:
        for entry in entries:
            try:
                if entry.is_file():
                    times[entry.name] = entry.stat().st_mtime
            except FileNotFoundError:
                continue  # removed since the listing
    return times


def _remote(store: Store, folder: str) -> dict[str, float]:
    try:
        entries: list[dict[str, Any]] = store.fs.ls(store.path(folder), detail=True)
    except FileNotFoundError:
        raise
    except Exception as error:  # any library's
        raise StoreError(f"{store.address(folder)}: cannot list it ({error})") from error
    files = [entry for entry in entries if entry["type"] == "file"]
    return {entry["name"].rpartition("/")[2]: _seconds(entry) for entry in files}


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
