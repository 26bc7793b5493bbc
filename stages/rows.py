"""Schemas of the rows in the stages and in Parquet files, and functions on batches of rows.

A batch is a `pyarrow.Table` with one row per image; one batch is one shard. Every stage returns exactly the
rows it got. Images are passed on as encoded bytes, and set to null as soon as no later stage needs them.
docs/schema.md describes every column.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from capfilt.stages.status import CRASHED, INTERNAL, PENDING, SUCCESS, one_line
from capfilt.stages.storage.layout import shard_digits

ROWS_PER_SHARD_LIMIT = 100_000
"""Most rows of a shard: a key has six digits for the shard and five for the row (img2dataset's layout)."""
ROW_DIGITS = 5
"""Digits of a row in a key. Those before them are the shard: more than six from a million shards on."""

SCHEMA_VERSION = 1
"""Version of the corpus and candidate Parquet files; part of every fingerprint."""

CAPTION_TYPE = pa.struct(
    [
        ("caption_index", pa.int32()),
        ("text", pa.string()),
        ("seed", pa.int64()),
        ("logprob", pa.float32()),
        ("tokens", pa.int32()),
        ("captioner", pa.string()),
    ]
)
"""One synthetic text of an image, between captioner and filter. `logprob` and `tokens` may be null: not every
captioner tells them. `captioner` is the digest of the model, null where the run has only one captioner."""

CANDIDATE_TYPE = pa.struct(
    [
        ("origin", pa.string()),
        ("caption_index", pa.int32()),
        ("text", pa.string()),
        ("seed", pa.int64()),
        ("logprob", pa.float32()),
        ("tokens", pa.int32()),
        ("itm_prob", pa.float32()),
        ("itc_sim", pa.float32()),
        ("text_sim", pa.float32()),
        ("kept", pa.bool_()),
        ("flags", pa.list_(pa.string())),
        ("captioner", pa.string()),
        ("language", pa.string()),
    ]
)
"""One text of an image with its scores, between filter and writer. `captioner` is set for captions
from elsewhere and for those of an ensemble, `language` where the config asks for it."""

FOREIGN_TYPE = pa.struct([("captioner", pa.string()), ("text", pa.string())])
"""A caption that somebody else has written, with the name of its captioner."""

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
        ("optout_signal", pa.string()),
        ("image", pa.large_binary()),
    ]
)
"""A row as the reader makes it; stages add columns to it."""

CORPUS_SCHEMA = pa.schema([field for field in ROW_SCHEMA if field.name != "image"])
"""`corpus/<source>/000012.parquet`: the columns of img2dataset (url, caption, key, status, error_message,
width, height, original_width, original_height, sha256) and further ones. `caption` is the first of
`texts`."""

OPTIONAL_SCHEMA = pa.schema([("expected_hash", pa.string()), ("synthetic", pa.list_(FOREIGN_TYPE))])
"""Columns of a row, and of the corpus, that only some manifests give: the promised hash of the image's bytes
(`rows.hash_column`), and captions from elsewhere (`rows.synthetic_columns`)."""
JOINED = "joined"
"""Column of the rows with captions from elsewhere that were joined to the images (`stages.foreign`)."""
UNFIT = "unfit"
"""Column of the rows of image tars: names of carried columns whose value does not fit their type."""
RECEIVED = "received"
"""Column of the rows that a fetch stage returns: bytes of the image as it came, also of one that was refused;
null where none came."""
CARRIED = "carried"
"""Column of the rows with the values of the manifest's own columns that are carried, as a struct. Corpus and
candidates have each of them as a column of its own."""

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
        ("text_sim", pa.float32()),
        ("kept", pa.bool_()),
        ("threshold", pa.float32()),
        ("flags", pa.list_(pa.string())),
        ("captioner", pa.string()),
        ("filter", pa.string()),
        ("top_p", pa.float32()),
        ("top_k", pa.int32()),
        ("repetition_penalty", pa.float32()),
        ("seed", pa.int64()),
        ("logprob", pa.float32()),
        ("tokens", pa.int32()),
        ("url", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("sha256", pa.string()),
        ("phash", pa.string()),
        ("version", pa.int32()),
    ]
)
"""`rounds/<r>/<source>/000012.parquet`: one row per candidate, that is (image, text) pair. `kept` is null,
and so does not count in any ratio, for a candidate without words (flag `empty`) and, depending on the policy,
for a candidate of a surplus copy (flag `duplicate_image`, see `stages.bootstrap.duplicates`). Shards that
earlier versions wrote have no `text_sim`, `logprob` and `tokens`."""


LANGUAGE = pa.field("language", pa.string())
"""Column of the candidates, after those of `CANDIDATE_SCHEMA`, if the config asks for it
(`filter.judge.language`)."""


def row_key(shard: int, row: int) -> str:
    """Id of an image in its source, the same in all rounds: six digits of the shard, five of the row."""
    return f"{shard_digits(shard)}{row:0{ROW_DIGITS}d}"


def shard_of_key(key: str) -> int:
    """The shard that contains an image."""
    return int(key[:-ROW_DIGITS])


def table_of(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows as a table of `schema`; missing fields become null.

    Raises:
        AssertionError: the first row has fields that the schema lacks.
    """
    for row in rows[:1]:
        unknown = set(row) - set(schema.names)
        assert not unknown, f"columns {sorted(unknown)} are not in the schema"
    columns = [pa.array([row.get(f.name) for row in rows], type=f.type) for f in schema]
    return pa.Table.from_arrays(columns, schema=schema)


def with_column(batch: pa.Table, name: str, values: Sequence[Any], type_: pa.DataType) -> pa.Table:
    """`batch` with column `name` set to `values`: appended, or replaced at its place if it exists."""
    array = pa.array(values, type=type_)
    index = batch.schema.get_field_index(name)
    field = pa.field(name, type_)
    return batch.append_column(field, array) if index < 0 else batch.set_column(index, field, array)


def row_names(batch: pa.Table) -> list[str]:
    """Columns of the rows that later stages need: `ROW_SCHEMA`, and what the manifest gives."""
    others = (*OPTIONAL_SCHEMA.names, CARRIED, UNFIT, JOINED)
    return [*ROW_SCHEMA.names, *(name for name in others if name in batch.column_names)]


def corpus_table(batch: pa.Table) -> pa.Table:
    """Rows as the corpus stores them: `CORPUS_SCHEMA`, then what the manifest gives."""
    table = batch.select(CORPUS_SCHEMA.names).cast(CORPUS_SCHEMA)
    for field in OPTIONAL_SCHEMA:
        if field.name in batch.column_names:
            table = table.append_column(field, batch[field.name].cast(field.type))
    return append_carried(table, batch)


def append_carried(table: pa.Table, batch: pa.Table, rows: pa.Array | None = None) -> pa.Table:
    """`table` with the carried columns of `batch`, if it has any.

    Args:
        rows: the row of `batch` that each row of `table` belongs to; by default they are the same rows.
    """
    if CARRIED not in batch.column_names:
        return table
    column = batch[CARRIED] if rows is None else batch[CARRIED].take(rows)
    for field, values in zip(column.type, column.flatten(), strict=True):
        table = table.append_column(field, values)
    return table


def from_corpus_table(table: pa.Table) -> pa.Table:
    """The opposite of `corpus_table`: columns that are not capfilt's own become the struct `carried`."""
    own = [name for name in table.column_names if name in {*CORPUS_SCHEMA.names, *OPTIONAL_SCHEMA.names}]
    others = [name for name in table.column_names if name not in own]
    rows = table.select(own)
    if not others:
        return rows
    columns = [table[name].combine_chunks() for name in others]
    fields = [pa.field(name, table.schema.field(name).type) for name in others]
    return rows.append_column(CARRIED, pa.StructArray.from_arrays(columns, fields=fields))


def without_images(batch: pa.Table) -> pa.Table:
    """`batch` with null images, for use when no later stage needs them."""
    return with_column(batch, "image", [None] * batch.num_rows, pa.large_binary())


def mark_failed(batch: pa.Table, error: Exception) -> pa.Table:
    """`batch` with status `internal`, for an unexpected exception, and without images."""
    return _set_failure(batch, INTERNAL, f"{type(error).__name__}: {error}")


def mark_crashed(batch: pa.Table, cause: str) -> pa.Table:
    """`batch` with status `crashed` and without images."""
    return _set_failure(batch, CRASHED, cause)


def _set_failure(batch: pa.Table, status: str, message: str) -> pa.Table:
    batch = with_column(batch, "status", [status] * batch.num_rows, pa.string())
    messages = [one_line(message)] * batch.num_rows
    return without_images(with_column(batch, "error_message", messages, pa.string()))


def count_active(batch: pa.Table) -> int:
    """Number of active rows: those that have not failed."""
    return sum(status in (PENDING, SUCCESS) for status in batch["status"].to_pylist())


def shard_name(batch: pa.Table) -> str:
    """Name of the shard whose rows a batch holds: `<source>/000012`."""
    return format_shard_name(batch["source"][0].as_py(), batch["shard"][0].as_py())


def format_shard_name(source: str, shard: int) -> str:
    """Name of a shard in messages: `<source>/000012`."""
    return f"{source}/{shard_digits(shard)}"
