"""The captions from elsewhere that belong to the images of a shard."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.rows import FOREIGN_TYPE
from capfilt.stages.storage.layout import CAPTIONS_PARTS
from capfilt.stages.storage.store import Store

SHARDS_PER_PART = 1000
"""Shards whose captions are in one file."""
SHARDS_KEY = b"capfilt.shards"
"""Key of the Parquet metadata that lists the shard of each row group, as JSON."""


def read_captions(out: Store, shard: int, keys: Sequence[str]) -> pa.Array:
    """The captions of the images of a shard.

    Args:
        out: the folder `captions/<source>`.
        keys: the images.

    Returns:
        For each image a list of `stages.rows.FOREIGN_TYPE`, in the order of the files.
    """
    found: dict[str, list[dict[str, str]]] = {}
    for row in _read_rows(out, shard):
        found.setdefault(row["key"], []).append({"captioner": row["captioner"], "text": row["text"]})
    return pa.array([found.get(key, []) for key in keys], pa.list_(FOREIGN_TYPE))


def _read_rows(out: Store, shard: int) -> list[dict[str, str]]:
    path = out.path(f"{CAPTIONS_PARTS}/{shard // SHARDS_PER_PART:05d}.parquet")
    try:
        with out.fs.open(path, "rb", cache_type="none") as stream:
            parquet = pq.ParquetFile(stream, pre_buffer=True)
            shards = json.loads((parquet.metadata.metadata or {})[SHARDS_KEY])
            if shard not in shards:
                return []
            rows: list[dict[str, str]] = parquet.read_row_group(shards.index(shard)).to_pylist()
            return rows
    except FileNotFoundError:  # none of its shards has a caption
        return []
