"""Where the images of a source are: shard, key, and the value by which a caption finds them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.foreign.config import Join
from capfilt.stages.rows import CARRIED, row_key
from capfilt.stages.storage.store import Store

PLACE_SCHEMA = pa.schema([("shard", pa.int64()), ("key", pa.string()), ("value", pa.string())])


def index_places(
    index_dir: Store, parts: Sequence[str], join: Join, id_name: str | None
) -> Iterator[pa.RecordBatch]:
    """The rows of an index, a batch for each shard.

    Args:
        parts: names of the index's files in `index_dir`, in order; each row group is a shard.
        id_name: the carried column with the ids.
    """
    shard = 0
    for part in parts:
        with index_dir.fs.open(index_dir.path(part), "rb") as stream:
            parquet = pq.ParquetFile(stream)
            for group in range(parquet.metadata.num_row_groups):
                column = f"{CARRIED}.{id_name}" if join == "uid" else "url"
                table = parquet.read_row_group(group, columns=[column])
                values = pc.struct_field(table[CARRIED], [0]) if join == "uid" else table["url"]
                keys = [row_key(shard, row) for row in range(table.num_rows)]
                yield _places([shard] * table.num_rows, keys, keys if join == "key" else values)
                shard += 1


def corpus_places(
    corpus: Store, files: Sequence[str], join: Join, id_name: str | None
) -> Iterator[pa.RecordBatch]:
    """The rows of committed corpus shards; for image tars, whose samples the index does not list.

    Args:
        files: names of the Parquet files in `corpus`.
    """
    column = {"key": "key", "url": "url", "uid": id_name}[join]
    for file in files:
        with corpus.fs.open(corpus.path(file), "rb") as stream:
            table = pq.read_table(stream, columns=list(dict.fromkeys(["shard", "key", column])))
        yield _places(table["shard"], table["key"], table[column])


def _places(shards: Any, keys: Any, values: Any) -> pa.RecordBatch:
    arrays = []
    for each, type_ in zip((shards, keys, values), PLACE_SCHEMA.types, strict=True):
        if isinstance(each, list):
            arrays.append(pa.array(each, type_))
        else:
            arrays.append(pc.cast(each, type_).combine_chunks())
    # As `stages.foreign.pairs` reads the values of captions.
    arrays[2] = pc.utf8_trim_whitespace(arrays[2])
    return pa.RecordBatch.from_arrays(arrays, schema=PLACE_SCHEMA)
