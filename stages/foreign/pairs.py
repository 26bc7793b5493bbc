"""Reads the files of captions from elsewhere, in any format of a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pyarrow as pa

from capfilt.stages.foreign.config import CandidatesConfig, CandidatesError
from capfilt.stages.manifest.columns import ColumnReader, check_texts
from capfilt.stages.manifest.config import ManifestConfig, ManifestError
from capfilt.stages.manifest.files import ManifestFile, find_files
from capfilt.stages.manifest.records import FIRST_RECORDS, read_rows
from capfilt.stages.manifest.row import ManifestRow

PAIR_SCHEMA = pa.schema([("number", pa.int64()), ("value", pa.string()), ("text", pa.string())])
"""A caption: its number in the files, the value that finds its image (null without), and the text."""
BATCH_ROWS = 10_000


@dataclass(frozen=True)
class ForeignCaptions:
    """The captions of one captioner for one source."""

    name: str
    config: CandidatesConfig
    source: str
    id_column: str | None = None
    """`rows.id_column` of the source."""

    @property
    def section(self) -> str:
        """Dotted path of the config section, for messages."""
        return f"candidates.{self.name}"

    def manifest(self) -> ManifestConfig:
        """The files as a manifest whose urls are the values that find the images."""
        usual = {"key": "key", "uid": self.id_column, "url": None}[self.config.join]
        return ManifestConfig(
            manifest=self.config.files,
            url_column=self.config.join_column or usual,
            caption_column=self.config.text_column,
            storage_options=self.config.storage_options,
        )

    def files(self) -> list[ManifestFile]:
        """The files.

        Raises:
            CandidatesError: there are none, or they have a format without columns.
        """
        try:
            files = find_files(self.manifest(), self.section)
        except ManifestError as error:
            raise self._explain(error) from error
        for file in files:
            if file.format in ("tar", "txt"):
                raise CandidatesError(
                    f"{self.section}.files: {file} is of format {file.format}; allowed: Parquet, CSV, TSV, "
                    "JSON, JSONL"
                )
        return files

    def check(self) -> None:
        """Check that the files exist, and that the first one has the columns.

        Raises:
            CandidatesError: they do not, or it lacks one.
        """
        (first, *_) = self.files()
        reader = _PairReader(self.manifest())
        try:
            rows = list(islice(read_rows(first, reader.config, self.section, reader), FIRST_RECORDS))
            check_texts(reader, rows, (self.section, str(first)))
        except ManifestError as error:
            raise self._explain(error) from error

    def identity(self) -> str:
        """sha256 of names, sizes and versions of the files."""
        versions = "".join(version for file in self.files() for version in file.versions)
        return hashlib.sha256(versions.encode()).hexdigest()

    def read(self) -> Iterator[pa.RecordBatch]:
        """The captions of all files (`PAIR_SCHEMA`), those of a row with several texts one by one.

        Raises:
            CandidatesError: a file cannot be read.
        """
        reader = _PairReader(self.manifest())
        columns: tuple[list[Any], list[Any], list[Any]] = ([], [], [])
        number = 0
        for file in self.files():
            try:
                for row in read_rows(file, reader.config, self.section, reader):
                    texts: list[str | None] = [*row["texts"]] or [None]
                    for text in texts:
                        for column, value in zip(columns, (number, row["url"], text), strict=True):
                            column.append(value)
                        number += 1
                    if len(columns[0]) >= BATCH_ROWS:
                        yield _batch(columns)
                        columns = ([], [], [])
            except ManifestError as error:
                raise self._explain(error) from error
        yield _batch(columns)

    def _explain(self, error: ManifestError) -> CandidatesError:
        """An error of a manifest in the words of this section."""
        line = str(error)
        for theirs, ours in (("manifest", "files"), ("url_column", "join_column")):
            line = line.replace(f"{self.section}.{theirs}", f"{self.section}.{ours}")
        line = line.replace(f"{self.section}.caption_column", f"{self.section}.text_column")
        return CandidatesError(line.replace(", or to none if the source has no texts", ""))


class _PairReader(ColumnReader):
    """Takes numbers as values too: ids are often integers."""

    def row(self, record: dict[str, Any]) -> ManifestRow:
        row = super().row(record)
        column = self.columns(record).url
        value = None if column is None else record[column]
        if isinstance(value, int) and not isinstance(value, bool):
            row["url"] = str(value)
        row["url"] = (row["url"] or "").strip() or None
        return row


def _batch(columns: tuple[list[Any], list[Any], list[Any]]) -> pa.RecordBatch:
    arrays = [pa.array(values, kind) for values, kind in zip(columns, PAIR_SCHEMA.types, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=PAIR_SCHEMA)
