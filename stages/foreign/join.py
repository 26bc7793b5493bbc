"""Joins captions from elsewhere to the images of a source, and stores them in the order of its shards.

The join is made once, by DuckDB on the driver, which spills to disk beyond its memory limit; a worker then
reads the captions of its shard with one ranged read, as it does with the index of the manifest.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Struct

from capfilt.stages.foreign.config import CandidatesError
from capfilt.stages.foreign.pairs import PAIR_SCHEMA, ForeignCaptions
from capfilt.stages.foreign.places import PLACE_SCHEMA
from capfilt.stages.foreign.shards import SHARDS_KEY, SHARDS_PER_PART
from capfilt.stages.storage.layout import CAPTIONS_PARTS, CAPTIONS_RECORD, UNMATCHED_PARTS
from capfilt.stages.storage.sql import open_database
from capfilt.stages.storage.store import DECODE_ERRORS, FileEntry, Store, encode_json, sha256

if TYPE_CHECKING:
    import duckdb

JOINED_SCHEMA = pa.schema([("key", pa.string()), ("captioner", pa.string()), ("text", pa.string())])
"""A caption with the key of its image; the files in `parts/`."""
UNMATCHED_SCHEMA = pa.schema([("captioner", pa.string()), ("value", pa.string()), ("text", pa.string())])
"""A caption that finds no image; the files in `unmatched/`."""
UNMATCHED_ROWS = 1_000_000
"""Rows of a file of captions without an image."""

_TABLES = """
CREATE TABLE found (shard BIGINT, key VARCHAR, captioner VARCHAR, place INT, number BIGINT, text VARCHAR);
CREATE TABLE lost (captioner VARCHAR, place INT, number BIGINT, value VARCHAR, text VARCHAR);
"""
_FOUND = """
INSERT INTO found SELECT shard, key, $name, $place, number, text FROM pairs JOIN places USING (value)
WHERE text IS NOT NULL
"""
_LOST = """
INSERT INTO lost SELECT $name, $place, number, value, text FROM pairs ANTI JOIN places USING (value)
WHERE text IS NOT NULL
"""

Places = Callable[[ForeignCaptions], Iterator[pa.RecordBatch]]
"""The images that captions can find (`stages.foreign.places.PLACE_SCHEMA`)."""


class CaptionCounts(Struct, frozen=True):
    """What became of the captions of one captioner."""

    captions: int
    """Captions in the files."""
    joined: int
    """Of these, captions that found an image; one that found several counts once."""
    unmatched: int
    """Captions that found none, or have no value to find one by."""
    empty: int
    """Rows without a text."""


class Joined(Struct, frozen=True):
    """The content of `captions.json`."""

    identity: str
    """sha256 over names, sizes and versions of the files of all captioners."""
    counts: dict[str, CaptionCounts]
    """By captioner."""
    parts: tuple[FileEntry, ...]
    unmatched: tuple[FileEntry, ...] = ()
    """Files with the captions that found no image."""
    version: int = 1


def join_captions(captions: Sequence[ForeignCaptions], places: Places, out: Store) -> Joined:
    """Join the captions of one source to its images, and write them.

    Args:
        captions: the captions of each captioner; all of one source.
        places: the images.
        out: the folder `captions/<source>`, which is replaced.
    """
    out.remove(CAPTIONS_PARTS)
    out.remove(UNMATCHED_PARTS)
    counts: dict[str, CaptionCounts] = {}
    with open_database() as sql:
        sql.execute(_TABLES)
        for place, each in enumerate(captions):
            counts[each.name] = _join_one(sql, place, each, places)
        joined = Joined(
            identity=identity_of(captions),
            counts=counts,
            parts=tuple(_write_parts(sql, out)),
            unmatched=tuple(_write_unmatched(sql, out)),
        )
    out.put(CAPTIONS_RECORD, encode_json(msgspec.to_builtins(joined)))
    return joined


def identity_of(captions: Sequence[ForeignCaptions]) -> str:
    """See `Joined.identity`."""
    return sha256("".join(f"{each.name}={each.identity()}\n" for each in captions).encode())


def read_joined(out: Store) -> Joined | None:
    """The content of `captions.json`, None if it is absent.

    Raises:
        CandidatesError: the file is damaged.
    """
    data = out.find(CAPTIONS_RECORD)
    try:
        return None if data is None else msgspec.json.decode(data, type=Joined)
    except DECODE_ERRORS as error:
        raise CandidatesError(
            f"{out.address(CAPTIONS_RECORD)}: damaged ({error}); join the captions again with --fresh join"
        ) from error


def _join_one(
    sql: duckdb.DuckDBPyConnection, place: int, captions: ForeignCaptions, places: Places
) -> CaptionCounts:
    sql.register("read_pairs", pa.RecordBatchReader.from_batches(PAIR_SCHEMA, captions.read()))
    sql.execute("CREATE TABLE pairs AS SELECT * FROM read_pairs")
    sql.register("read_places", pa.RecordBatchReader.from_batches(PLACE_SCHEMA, places(captions)))
    sql.execute("CREATE TABLE places AS SELECT * FROM read_places WHERE value IS NOT NULL")
    given = {"name": captions.name, "place": place}
    sql.execute(_FOUND, given)
    sql.execute(_LOST, given)
    (rows, empty) = sql.execute(
        "SELECT count(text), count(*) FILTER (text IS NULL) FROM pairs"
    ).fetchone() or (0, 0)
    (lost,) = sql.execute("SELECT count(*) FROM lost WHERE place = $1", [place]).fetchone() or (0,)
    sql.execute("DROP TABLE pairs")
    sql.execute("DROP TABLE places")
    return CaptionCounts(captions=rows, joined=rows - lost, unmatched=lost, empty=empty)


def _write_parts(sql: duckdb.DuckDBPyConnection, out: Store) -> Iterator[FileEntry]:
    """Write the captions with an image, a row group for each shard that has some; a file holds the shards of
    a file of the index, so that it has the same number."""
    ordered = sql.execute(
        "SELECT shard, key, captioner, text FROM found ORDER BY shard, key, place, number"
    ).to_arrow_reader(100_000)
    part, sink, writer = -1, io.BytesIO(), None
    shards: list[int] = []
    for shard, table in _by_shard(ordered):
        if shard // SHARDS_PER_PART != part:
            if writer is not None:
                yield _close(writer, shards, sink, (out, part))
            part, sink, shards = shard // SHARDS_PER_PART, io.BytesIO(), []
            writer = pq.ParquetWriter(sink, JOINED_SCHEMA, compression="zstd")
        assert writer is not None
        writer.write_table(table, row_group_size=table.num_rows)
        shards.append(shard)
    if writer is not None:
        yield _close(writer, shards, sink, (out, part))


def _close(
    writer: pq.ParquetWriter, shards: list[int], sink: io.BytesIO, place: tuple[Store, int]
) -> FileEntry:
    writer.add_key_value_metadata({SHARDS_KEY: json.dumps(shards)})
    writer.close()
    out, part = place
    return out.put(f"{CAPTIONS_PARTS}/{part:05d}.parquet", sink.getvalue())


def _by_shard(ordered: pa.RecordBatchReader) -> Iterator[tuple[int, pa.Table]]:
    """(shard, its captions) of captions in the order of the shards."""
    left: list[pa.Table] = []
    shard: int | None = None
    for batch in ordered:
        table = pa.Table.from_batches([batch])
        starts = _run_starts(table["shard"].to_pylist())
        for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):
            number = table["shard"][start].as_py()
            if shard is not None and number != shard:
                yield shard, pa.concat_tables(left)
                left = []
            shard = number
            left.append(table.slice(start, end - start).select(JOINED_SCHEMA.names))
    if shard is not None:
        yield shard, pa.concat_tables(left)


def _run_starts(values: Sequence[int]) -> list[int]:
    return [i for i, value in enumerate(values) if not i or value != values[i - 1]]


def _write_unmatched(sql: duckdb.DuckDBPyConnection, out: Store) -> Iterator[FileEntry]:
    """Write the captions that found no image, in the order of the files."""
    ordered = sql.execute("SELECT captioner, value, text FROM lost ORDER BY place, number").to_arrow_reader(
        UNMATCHED_ROWS
    )
    for number, batch in enumerate(ordered):
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_batches([batch]).cast(UNMATCHED_SCHEMA), sink, compression="zstd")
        yield out.put(f"{UNMATCHED_PARTS}/{number:05d}.parquet", sink.getvalue())
