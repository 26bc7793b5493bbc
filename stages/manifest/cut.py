"""Cuts the rows of a manifest's files into tables, one for each shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.stages.carried.values import ShardValues
from capfilt.stages.manifest.columns import ColumnReader
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.records import read_rows
from capfilt.stages.manifest.row import ManifestRow
from capfilt.stages.rows import CARRIED, OPTIONAL_SCHEMA

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig
    from capfilt.stages.manifest.files import ManifestFile

INDEX_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("truth", pa.string()),
        ("tar", pa.string()),
        ("image_file", pa.string()),
        ("image_column", pa.string()),
        ("image_row", pa.int64()),
    ]
)
"""A shard is either rows with `url`, `texts` and `truth`, or one row with the address of an image tar. Rows
whose image is embedded in a Parquet file say where it is; earlier versions do not have these columns."""
TEXT_LIMIT = 1 << 28
"""Characters of the urls and texts of a shard, which is built in memory."""


def iter_shards(
    reader: ColumnReader, files: Sequence[ManifestFile], section: str, values: ShardValues
) -> Iterator[pa.Table]:
    """Tables of `shard_size` rows (`INDEX_SCHEMA`, and what else the config asks for); an image tar is a
    shard of its own, with one row.

    Raises:
        ManifestError: as in `read_rows`, or the texts of a shard are too long to be held in memory.
    """
    rows: list[ManifestRow] = []
    characters = 0
    config = reader.config
    for file in files:
        if file.format == "tar":
            values.add(None)
            yield index_table([{"tar": file.fs.unstrip_protocol(file.path)}], config, values)
            continue
        for row in read_rows(file, config, section, reader):
            rows.append(row)
            values.add(row.pop("carried", None)) if values.fields else None
            characters += len(row["url"] or "") + sum(map(len, row["texts"]))
            if characters + values.size > TEXT_LIMIT:
                raise ManifestError(
                    f"{section}.shard_size: {len(rows)} rows of {file} have more than {TEXT_LIMIT:,} "
                    "characters; set a smaller shard_size, or remove the texts that are no captions"
                )
            if len(rows) == config.shard_size:
                yield index_table(rows, config, values)
                rows, characters = [], 0
    if rows:
        yield index_table(rows, config, values)


def index_table(
    rows: Sequence[ManifestRow] | Sequence[dict[str, Any]], config: ManifestConfig, values: ShardValues
) -> pa.Table:
    """The table of a shard: `INDEX_SCHEMA`, then the columns that only some configs ask for."""
    given = {"expected_hash": config.hash_column is not None, "synthetic": bool(config.synthetic_columns)}
    schema = pa.schema([*INDEX_SCHEMA, *(field for field in OPTIONAL_SCHEMA if given[field.name])])
    table = pa.Table.from_pylist(rows, schema=schema)
    return table.append_column(CARRIED, values.take()) if values.fields else table


def count_tables(tables: Iterator[pa.Table], counts: Counter[str]) -> Iterator[pa.Table]:
    """The same tables; `counts` holds the numbers of their rows, shards, image tars and texts."""
    for table in tables:
        texts = pc.sum(pc.list_value_length(table["texts"])).as_py() or 0
        embedded = table.num_rows - table["image_file"].null_count
        tars = table.num_rows - table["tar"].null_count
        counts.update(rows=table.num_rows, shards=1, tars=tars, texts=texts, embedded=embedded)
        yield table


def widest_column(table: pa.Table) -> str:
    """The carried column with most bytes."""
    column = table[CARRIED]
    sizes = {field.name: each.nbytes for field, each in zip(column.type, column.flatten(), strict=True)}
    return max(sizes, key=sizes.__getitem__)
