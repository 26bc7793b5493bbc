"""Names of a shard's files: no attempt ever changes a file that another attempt has written.

Several attempts may process one shard: a late worker that lost its driver, a task that Ray repeats. A file
is created exclusively under its plain name, `000012.tar`. Where that name is taken, by an attempt that died
or is at work, the file gets a name of its own, `_000012.5f1c09ab.tar`, and the commit record lists that name.
So a record lists only files with the bytes that its own attempt has written. When the node ends, its driver
gives such committed files their plain names (`give_plain_names`).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from pathlib import PurePosixPath

from msgspec.structs import replace

from capfilt.stages.shards.commit import find_commit
from capfilt.stages.shards.records import CommitRecord, encode
from capfilt.stages.storage.layout import ShardFiles, images_folder
from capfilt.stages.storage.store import FileEntry, Store, sha256

OWN_NAME = re.compile(r"_(\d+)\.[0-9a-f]{8}\.(tar|parquet|json)")
"""Names of files whose plain name was taken: shard and suffix."""


def write_file(store: Store, place: ShardFiles, suffix: str, data: bytes) -> FileEntry:
    """Write a file of a shard without changing a file of another attempt.

    Returns:
        The entry of the file for the commit record.
    """
    plain = place.path(f"{place.name}.{suffix}")
    if store.create(plain, data) or store.find(plain) == data:
        return FileEntry(PurePosixPath(plain).name, len(data), sha256(data))
    return store.put(place.path(f"_{place.name}.{uuid.uuid4().hex[:8]}.{suffix}"), data)


def listed_file(place: ShardFiles, record: CommitRecord, suffix: str) -> str:
    """Path of the file with this suffix that the record of a shard lists; the plain one if it lists none."""
    names = (file.name for file in record.files if file.name.endswith(f".{suffix}"))
    return place.path(next(names, f"{place.name}.{suffix}"))


def give_plain_names(store: Store, folder: str, confirm: Callable[[], None]) -> None:
    """Give the committed files of the shards in `folder` their plain names, and remove those of attempts that
    came second.

    The plain file is written, then the record is replaced in one step, then the former file is removed. So
    there is a valid record at every moment, and it lists complete files. Files of shards without a record
    stay, because their attempt may still commit them.

    Args:
        confirm: raises if this process does not hold the lease of the run directory any more.
    """
    shards: dict[int, list[str]] = {}
    listed = {name for each in {folder, images_folder(folder)} for name in store.list(each)}
    for name in sorted(listed):
        if (match := OWN_NAME.fullmatch(name)) is not None:
            shards.setdefault(int(match[1]), []).append(name)
    for shard, names in shards.items():
        place = ShardFiles(folder, shard)
        if (record := find_commit(store, place.record)) is None:
            continue
        files = []
        for file in record.files:
            plain = f"{place.name}.{file.name.rpartition('.')[2]}"
            if file.name != plain:
                confirm()
                store.put(place.path(plain), store.read(place.path(file.name)))
            files.append(replace(file, name=plain))
        if tuple(files) != record.files:
            confirm()
            store.put(place.record, encode(replace(record, files=tuple(files))))
        for name in names:
            confirm()
            store.remove_file(place.path(name))
