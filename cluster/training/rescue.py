"""The last whole checkpoint of a training whose list of checkpoints Ray Train cannot read.

Ray Train 2.60 keeps its checkpoints by a list, which it rewrites in place: a full disk, or a kill at that moment, leaves
half of it, with which it refuses to begin again. It may refuse a list that another version of Ray has written, too.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import ray
from pyarrow import fs as arrow

SNAPSHOT_FILE = "checkpoint_manager_snapshot.json"
"""Ray Train's list, in the folder of a training."""
SEAL = "whole.json"
"""Names the other files of a checkpoint and their sizes: one that is copied by halves is told by it."""


def write_file_list(folder: str) -> None:
    """Add the seal to a checkpoint that is complete, before it is copied to where it is kept."""
    sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
    Path(folder, SEAL).write_text(json.dumps(sizes, sort_keys=True))


def rescue(filesystem: arrow.FileSystem | None, folder: str) -> str | None:
    """Make a training's folder one that Ray Train can go on in.

    Args:
        filesystem: of the folder; None for the local one.
        folder: of the training; need not exist.

    Returns:
        Path of the newest whole checkpoint where there is no list, or was a broken one, which is gone now; None if the
        list is sound or there is nothing to go on from.
    """
    filesystem = filesystem or arrow.LocalFileSystem()
    data = _read(filesystem, f"{folder}/{SNAPSHOT_FILE}")
    if data is not None:
        if _is_sound(filesystem, folder, data):
            return None
        filesystem.delete_file(f"{folder}/{SNAPSHOT_FILE}")
    # Also without a list: a run may have been killed after it was removed, and before the first checkpoint since.
    found = filesystem.get_file_info(arrow.FileSelector(folder, allow_not_found=True))
    names = sorted((os.path.basename(each.path.rstrip("/")) for each in found), reverse=True)
    checkpoints = (f"{folder}/{name}" for name in names if name.startswith("step_"))
    return next((path for path in checkpoints if _is_whole(filesystem, path)), None)


def _is_sound(filesystem: arrow.FileSystem, folder: str, data: bytes) -> bool:
    """Whether Ray Train can read its list, and what it lists is there."""
    try:
        known = json.loads(data)
        listed = [each["checkpoint_dir_name"] for each in known["checkpoint_results"]]
    except (ValueError, KeyError, TypeError):
        return False
    infos = filesystem.get_file_info([f"{folder}/{name}" for name in listed])
    there = all(info.type != arrow.FileType.NotFound for info in infos)
    return there and known.get("ray_version") == ray.__version__


def _is_whole(filesystem: arrow.FileSystem, checkpoint: str) -> bool:
    data = _read(filesystem, f"{checkpoint}/{SEAL}")
    try:
        sizes: dict[str, Any] = json.loads(data or b"null") or {}
    except ValueError:
        return False
    infos = filesystem.get_file_info([f"{checkpoint}/{name}" for name in sizes])
    return bool(sizes) and all(info.size == size for info, size in zip(infos, sizes.values(), strict=True))


def _read(filesystem: arrow.FileSystem, path: str) -> bytes | None:
    try:
        with filesystem.open_input_stream(path) as stream:
            data: bytes = stream.read()
    except FileNotFoundError:
        return None
    return data
