"""Cuts the rows of a manifest's files into tables, one for each shard, and writes these to the index."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.carried.fields import CarriedField, ColumnsError, has_extras
from capfilt.stages.carried.values import ShardValues, widest_column
from capfilt.stages.concurrency import map_ahead
from capfilt.stages.manifest.arrow.leaves import leaf_paths
from capfilt.stages.manifest.arrow.tables import join_equal
from capfilt.stages.manifest.arrow.values import count_characters
from capfilt.stages.manifest.columns import ColumnReader
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.parquet import ParquetSize, iter_tables, read_size
from capfilt.stages.manifest.records import explain_errors, read_csv_tables, read_rows
from capfilt.stages.manifest.row import INDEX_SCHEMA as INDEX_SCHEMA  # where readers of an index look for it
from capfilt.stages.manifest.row import ManifestRow, rows_table
from capfilt.stages.rows import CARRIED
from capfilt.stages.storage.layout import INDEX_PARTS
from capfilt.stages.storage.store import FileEntry, Store

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig
    from capfilt.stages.manifest.files import ManifestFile

TEXT_LIMIT = 1 << 28
"""Characters of the urls and texts of a shard, which is built in memory."""
SHARDS_PER_PART = 1000
"""Row groups per index file: its footer stays at about 1 MB, and 400 M rows make 400 files."""
PART_LIMIT = 1 << 30
"""Bytes of a file of an index with carried columns, which is built in memory."""
UNIQUE_COLUMN = "url"
"""Its values do not repeat within a shard: a dictionary would only take time and room. Texts keep theirs: one
long text that stands in every row would be written as often, which takes memory."""
JOINED_BYTES = 1 << 20
"""Tables with fewer bytes are written together: one by one, each would wait several times for the
interpreter, which the next ones keep busy."""
FOOTERS = 16
"""Footers of Parquet files that are read at the same time."""
PARTS, WIDE_PARTS = 4, 2
"""Files of an index that are made at the same time, without and with carried columns, if there are as many
CPUs: each is in memory until it is complete."""


@dataclass
class Cut:
    """What was cut."""

    parts: list[FileEntry] = field(default_factory=list)
    """The files of the index."""
    counts: Counter[str] = field(default_factory=Counter)
    """See `count_tables`."""
    unfit: Counter[str] = field(default_factory=Counter)
    """See `ShardValues.unfit`."""


def cut_parquet(
    reader: ColumnReader,
    files: Sequence[ManifestFile],
    section: str,
    fields: Sequence[CarriedField],
    index_dir: Store,
) -> Cut:
    """Cut a manifest of Parquet files into an index. As their footers count the rows, several files of the
    index are made at the same time; they are those of `iter_shards`.

    Raises:
        ManifestError: as in `iter_shards`.
        ColumnsError: see `write_part`.
    """
    config = reader.config

    def read(file: ManifestFile) -> ParquetSize:
        with explain_errors(file, section, config):
            return read_size(file, section, ColumnReader(config))

    sizes = list(map_ahead(read, files, FOOTERS))
    for size in sizes:
        if size.rows:
            reader.columns(dict.fromkeys(size.columns))
    starts = list(accumulate((size.rows for size in sizes), initial=0))
    rows_per_part = SHARDS_PER_PART * config.shard_size

    def cut(part: int) -> Cut:
        rows = range(part * rows_per_part, min(starts[-1], (part + 1) * rows_per_part))
        values, found = ShardValues(fields), Cut()
        cutter = ShardCutter(config, section, values)
        tables = _iter_part(cutter, list(zip(files, starts, strict=False)), rows, reader.carried)
        found.parts.append(write_part(count_tables(tables, found.counts), part, index_dir, section))
        found.unfit = values.unfit
        return found

    parts = range(-(-starts[-1] // rows_per_part))
    threads = min(os.cpu_count() or 1, WIDE_PARTS if fields else PARTS)
    total = Cut()
    for found in map_ahead(cut, parts, threads):
        total.parts += found.parts
        total.counts.update(found.counts)
        total.unfit.update(found.unfit)
    return total


def _iter_part(
    cutter: ShardCutter, files: Sequence[tuple[ManifestFile, int]], rows: range, carried: tuple[str, ...]
) -> Iterator[pa.Table]:
    """Tables of the shards of some rows of a manifest.

    Args:
        files: Parquet files, each with the number of its first row.
        rows: numbers of the rows in the whole manifest.
    """
    config, section = cutter.config, cutter.section
    for (file, start), (_, end) in zip(files, [*files[1:], (None, rows.stop)], strict=True):
        own = range(max(rows.start, start) - start, min(rows.stop, end) - start)
        if not own:
            continue
        with explain_errors(file, section, config):
            for table, batches in iter_tables(file, ColumnReader(config, carried), section, own):
                yield from cutter.add_table(table, batches, file)
    yield from cutter.finish()


def write_part(tables: Iterable[pa.Table], number: int, index_dir: Store, section: str) -> FileEntry:
    """Write a file of the index, a row group for each table; it is built in memory. While a table is written,
    the next one is made.

    Raises:
        ColumnsError: with the carried columns the file is too large for that.
    """
    sink, tables = io.BytesIO(), iter(tables)
    first = next(tables)

    def write(joined: tuple[pa.Table, int]) -> None:
        table, rows = joined
        writer.write_table(table, row_group_size=rows)
        if CARRIED in table.column_names and sink.tell() > PART_LIMIT:
            raise ColumnsError(
                f"{section}.keep_columns: the rows of {SHARDS_PER_PART:,} shards have more than "
                f"{PART_LIMIT >> 30} GiB with these columns; leave out the widest, "
                f"{widest_column(table[CARRIED])!r}, or set a smaller {section}.shard_size"
            )

    repeated = leaf_paths(field for field in first.schema if field.name != UNIQUE_COLUMN)
    with pq.ParquetWriter(sink, first.schema, compression="zstd", use_dictionary=repeated) as writer:
        for _ in map_ahead(write, join_equal(chain([first], tables), JOINED_BYTES), 1):
            pass
    return index_dir.put(part_path(number), sink.getvalue())


def part_path(part: int) -> str:
    """Path of a file of an index, in its folder."""
    return f"{INDEX_PARTS}/{part:05d}.parquet"


def iter_shards(
    reader: ColumnReader, files: Sequence[ManifestFile], section: str, values: ShardValues
) -> Iterator[pa.Table]:
    """Tables of `shard_size` rows (`INDEX_SCHEMA`, and what else the config asks for); an image tar is a
    shard of its own, with one row.

    Raises:
        ManifestError: as in `read_rows`, or the texts of a shard are too long to be held in memory.
    """
    config = reader.config
    cutter = ShardCutter(config, section, values)
    for file in files:
        if file.format == "tar":
            yield cutter.tar_table(file.fs.unstrip_protocol(file.path))
        elif file.format == "csv" and not has_extras(config):
            with explain_errors(file, section, config):
                for table in read_csv_tables(file, reader, section):
                    yield from cutter.add_table(table, (), file)
        else:
            for row in read_rows(file, config, section, reader):
                yield from cutter.add_row(row, file)
    yield from cutter.finish()


class ShardCutter:
    """Collects rows until they are a shard.

    Args:
        section: dotted path of the manifest section, for messages.
        values: takes the carried values of the rows.
    """

    def __init__(self, config: ManifestConfig, section: str, values: ShardValues) -> None:
        self.config, self.section, self.values = config, section, values
        self._tables: list[pa.Table] = []
        self._rows: list[ManifestRow] = []
        """Rows after those of the tables."""
        self._count = 0
        self._size = 0
        """At least the characters of these rows."""

    def add_row(self, row: ManifestRow, file: ManifestFile) -> Iterator[pa.Table]:
        """Add a row of a file; gives the table of the shard that it completes."""
        self._rows.append(row)
        self._count += 1
        if self.values.fields:
            self.values.add(row.pop("carried", None))
        self._grow(_characters(row), file)
        if self._count == self.config.shard_size:
            yield self._take()

    def add_table(
        self, table: pa.Table, batches: Sequence[pa.RecordBatch], file: ManifestFile
    ) -> Iterator[pa.Table]:
        """Add rows of a file; gives the tables of the shards that they complete.

        Args:
            batches: the carried columns of the same rows, if columns are carried.
        """
        start = 0
        while start < table.num_rows:
            part = table.slice(start, self.config.shard_size - self._count)
            self._close_rows()
            self._tables.append(part)
            self._count += part.num_rows
            if self.values.fields:
                self.values.add_batches(batches, start, part.num_rows)
            self._grow(part.nbytes, file)
            start += part.num_rows
            if self._count == self.config.shard_size:
                yield self._take()

    def tar_table(self, address: str) -> pa.Table:
        """The table of an image tar; the rows so far remain."""
        values = ShardValues(self.values.fields)
        values.add(None)
        return index_table([{"tar": address}], self.config, values)

    def finish(self) -> Iterator[pa.Table]:
        """The table of the rows that are left."""
        if self._count:
            yield self._take()

    def _grow(self, size: int, file: ManifestFile) -> None:
        """Check that the shard is not too long.

        Args:
            size: at least the characters of what was added.

        Raises:
            ManifestError: it is.
        """
        self._size += size
        if self._size + self.values.size <= TEXT_LIMIT:
            return
        # What was added to the size may be bytes.
        self._size = sum(map(_count_table, self._tables)) + sum(map(_characters, self._rows))
        if self._size + self.values.size > TEXT_LIMIT:
            raise ManifestError(
                f"{self.section}.shard_size: {self._first_too_many()} rows of {file} have more than "
                f"{TEXT_LIMIT:,} characters; set a smaller shard_size, or remove the texts that are no "
                "captions"
            )

    def _first_too_many(self) -> int:
        """Number of rows of which the last one makes the shard too long."""
        rows = (row for table in self._tables for row in table.select(["url", "texts"]).to_pylist())
        sizes = accumulate(map(_characters, chain(rows, self._rows)))
        over = (number for number, size in enumerate(sizes, 1) if size + self.values.size > TEXT_LIMIT)
        return next(over, self._count)

    def _close_rows(self) -> None:
        """Make a table of the rows."""
        if self._rows:
            self._tables.append(rows_table(self._rows, self.config))
            self._rows = []

    def _take(self) -> pa.Table:
        """The table of the present shard, and begin the next one."""
        self._close_rows()
        # One chunk for each column, as pages of a Parquet file do not go over chunks.
        table = self._tables[0] if len(self._tables) == 1 else pa.concat_tables(self._tables).combine_chunks()
        self._tables, self._count, self._size = [], 0, 0
        return table.append_column(CARRIED, self.values.take()) if self.values.fields else table


def _characters(row: ManifestRow) -> int:
    return len(row["url"] or "") + sum(map(len, row["texts"]))


def _count_table(table: pa.Table) -> int:
    return count_characters(table["url"]) + count_characters(pc.list_flatten(table["texts"]))


def index_table(
    rows: Sequence[ManifestRow] | Sequence[dict[str, Any]], config: ManifestConfig, values: ShardValues
) -> pa.Table:
    """The table of a shard: `INDEX_SCHEMA`, then the columns that only some configs ask for."""
    table = rows_table(rows, config)
    return table.append_column(CARRIED, values.take()) if values.fields else table


def count_tables(tables: Iterator[pa.Table], counts: Counter[str]) -> Iterator[pa.Table]:
    """The same tables; `counts` holds the numbers of their rows, shards, image tars and texts."""
    for table in tables:
        texts = pc.sum(pc.list_value_length(table["texts"])).as_py() or 0
        embedded = table.num_rows - table["image_file"].null_count
        tars = table.num_rows - table["tar"].null_count
        counts.update(rows=table.num_rows, shards=1, tars=tars, texts=texts, embedded=embedded)
        yield table
