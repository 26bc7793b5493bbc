"""The rows that travel through the pipeline, and the candidate rows it writes: one schema each, for ever.

A batch is a `pyarrow.Table` with one row per image of a manifest slice; one batch is one shard. Every stage
returns exactly the rows it got. Images travel as encoded bytes and are emptied as soon as nobody needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from capfilt.stages.status import CRASHED, INTERNAL, PENDING, SUCCESS, one_line
from capfilt.stages.storage.layout import DIGITS, shard_digits

ROWS_PER_SHARD_LIMIT = 100_000
"""The row part of a key has five digits, the shard part six (img2dataset's layout)."""

SCHEMA_VERSION = 1
"""Version of the corpus and candidate Parquet files; part of every fingerprint."""

CAPTION = pa.struct(
    [("caption_index", pa.int32()), ("text", pa.string()), ("seed", pa.int64()), ("logprob", pa.float32())]
)
CANDIDATE = pa.struct(
    [
        ("origin", pa.string()),
        ("caption_index", pa.int32()),
        ("text", pa.string()),
        ("seed", pa.int64()),
        ("itm_prob", pa.float32()),
        ("itc_sim", pa.float32()),
        ("kept", pa.bool_()),
        ("flags", pa.list_(pa.string())),
    ]
)

ROW_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("shard", pa.int64()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("truth", pa.string()),
        ("status", pa.string()),
        ("error_message", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("original_width", pa.int32()),
        ("original_height", pa.int32()),
        ("sha256", pa.string()),
        ("phash", pa.string()),
        ("image", pa.large_binary()),
    ]
)

CORPUS_SCHEMA = pa.schema([field for field in ROW_SCHEMA if field.name != "image"])
"""`corpus/<source>/000012.parquet`: img2dataset's columns (url, caption, key, status, error_message, width,
height, original_width, original_height, sha256) and ours. `caption` is the first of `texts`."""

CANDIDATE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("shard", pa.int64()),
        ("round", pa.int32()),
        ("origin", pa.string()),
        ("caption_index", pa.int32()),
        ("text", pa.string()),
        ("itm_prob", pa.float32()),
        ("itc_sim", pa.float32()),
        ("kept", pa.bool_()),
        ("threshold", pa.float32()),
        ("flags", pa.list_(pa.string())),
        ("captioner", pa.string()),
        ("filter", pa.string()),
        ("top_p", pa.float32()),
        ("top_k", pa.int32()),
        ("repetition_penalty", pa.float32()),
        ("seed", pa.int64()),
        ("url", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("phash", pa.string()),
        ("version", pa.int32()),
    ]
)
"""`rounds/<r>/<source>/000012.parquet`: one row per (image, text) candidate. `kept` is NULL, and so outside
every ratio, for a candidate that nobody could judge (flag `empty`) and, by policy, for one whose image is a surplus
copy (flag `duplicate_image`, `stages.bootstrap.duplicates`)."""


def row_key(shard: int, row: int) -> str:
    """Id of an image in its source: six digits of its shard, five of its row. It never changes between rounds."""
    return f"{shard_digits(shard)}{row:05d}"


def shard_of_key(key: str) -> int:
    """The shard that an image lies in."""
    return int(key[:DIGITS])


def table_of(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`; absent fields become null, unknown ones are an error."""
    known = set(schema.names)
    for row in rows[:1]:
        unknown = set(row) - known
        assert not unknown, f"columns {sorted(unknown)} are not in the schema"
    columns = [pa.array([row.get(f.name) for row in rows], type=f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def with_column(batch: pa.Table, name: str, values: Sequence[Any], type_: pa.DataType) -> pa.Table:
    """`batch` with column `name` set to `values`, replaced in place if it is there already."""
    array = pa.array(values, type=type_)
    index = batch.schema.get_field_index(name)
    field = pa.field(name, type_)
    return batch.append_column(field, array) if index < 0 else batch.set_column(index, field, array)


def without_images(batch: pa.Table) -> pa.Table:
    """`batch` with its image bytes emptied: what is passed on once no later stage looks at pixels."""
    return with_column(batch, "image", [None] * batch.num_rows, pa.large_binary())


def mark_failed(batch: pa.Table, error: Exception) -> pa.Table:
    """`batch` with every row ended as `internal` by an exception that nobody foresaw, its image emptied."""
    return _ended(batch, INTERNAL, f"{type(error).__name__}: {error}")


def mark_crashed(batch: pa.Table, cause: str) -> pa.Table:
    """`batch` with every row ended as `crashed`, its image emptied."""
    return _ended(batch, CRASHED, cause)


def _ended(batch: pa.Table, status: str, message: str) -> pa.Table:
    batch = with_column(batch, "status", [status] * batch.num_rows, pa.string())
    messages = [one_line(message)] * batch.num_rows
    return without_images(with_column(batch, "error_message", messages, pa.string()))


def count_active(batch: pa.Table) -> int:
    """Rows that a stage still has work with: those that have not failed."""
    return sum(status in (PENDING, SUCCESS) for status in batch["status"].to_pylist())


def shard_name(batch: pa.Table) -> str:
    """`<source>/000012` of the shard that these rows are."""
    return name_of(batch["source"][0].as_py(), batch["shard"][0].as_py())


def name_of(source: str, shard: int) -> str:
    """What a shard is called in reports: `<source>/000012`."""
    return f"{source}/{shard_digits(shard)}"
