"""Find the last complete checkpoint of a training whose list of checkpoints Ray Train cannot read.

Ray Train 2.60 keeps a list of its checkpoints in a JSON file that it rewrites in place. A full disk, or a
kill during the write, leaves half of the file, and Ray Train then refuses to start. It may also refuse a list
that another version of Ray has written.
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
FILE_LIST = "whole.json"
"""File in a checkpoint with the names and sizes of the other files; shows whether a copy is complete."""


def write_file_list(folder: str) -> None:
    """Add `FILE_LIST` to a complete checkpoint, before the checkpoint is copied to its storage."""
    sizes = {path.name: path.stat().st_size for path in Path(folder).iterdir()}
    Path(folder, FILE_LIST).write_text(json.dumps(sizes, sort_keys=True))


def recover_checkpoint(filesystem: arrow.FileSystem | None, folder: str) -> str | None:
    """Remove Ray Train's list of a training's checkpoints if it is damaged, and find the one to resume from.

    Args:
        filesystem: of the folder; None for the local one.
        folder: of the training; need not exist.

    Returns:
        Path of the newest complete checkpoint if there is no intact list; None if the list is intact, so that
        Ray Train resumes by itself, or if there is no complete checkpoint.
    """
    filesystem = filesystem or arrow.LocalFileSystem()
    data = _read(filesystem, f"{folder}/{SNAPSHOT_FILE}")
    if data is not None:
        if _is_intact(filesystem, folder, data):
            return None
        filesystem.delete_file(f"{folder}/{SNAPSHOT_FILE}")
    # Checkpoints may exist without a list: a run may have been killed after the list was removed and before
    # the next checkpoint was written.
    entries = filesystem.get_file_info(arrow.FileSelector(folder, allow_not_found=True))
    names = sorted((os.path.basename(entry.path.rstrip("/")) for entry in entries), reverse=True)
    checkpoints = (f"{folder}/{name}" for name in names if name.startswith("step_"))
    return next((path for path in checkpoints if _is_complete(filesystem, path)), None)


def _is_intact(filesystem: arrow.FileSystem, folder: str, data: bytes) -> bool:
    """Whether Ray Train can read its list, and all listed checkpoints exist."""
    try:
        snapshot = json.loads(data)
        listed = [result["checkpoint_dir_name"] for result in snapshot["checkpoint_results"]]
    except (ValueError, KeyError, TypeError):
        return False
    infos = filesystem.get_file_info([f"{folder}/{name}" for name in listed])
    all_exist = all(info.type != arrow.FileType.NotFound for info in infos)
    return all_exist and snapshot.get("ray_version") == ray.__version__


def _is_complete(filesystem: arrow.FileSystem, checkpoint: str) -> bool:
    """Whether all files of a checkpoint exist with the sizes of its `FILE_LIST`."""
    data = _read(filesystem, f"{checkpoint}/{FILE_LIST}")
    try:
        sizes: Any = json.loads(data or b"null")
    except ValueError:
        return False
    if not isinstance(sizes, dict):
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
