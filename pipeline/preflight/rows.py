"""The rows of a source: how many there are, what the first ones hold, and which columns are used."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import pyarrow.parquet as pq

from capfilt.pipeline.config.sections import SourceSection
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.outcomes import locate_image
from capfilt.stages.fetch.urls.parse import parse_http_url
from capfilt.stages.manifest.columns import ColumnReader, is_no_column
from capfilt.stages.manifest.files import ManifestFile, find_files
from capfilt.stages.manifest.records import read_rows
from capfilt.stages.manifest.row import ManifestRow
from capfilt.stages.manifest.survey import choose_carried
from capfilt.stages.shards.sidecars import describe_lack, read_sidecars
from capfilt.stages.status import Failure

SAMPLES = 3
"""Rows that are shown."""
COUNTED_BYTES = 1 << 26
"""Up to this size, all rows of the text files of a source are read and counted."""
COUNTED_FOOTERS = 200
"""Up to this many Parquet files, the number of rows is read from each."""
HOST_ROWS, HOST_FILES = 1000, 5
"""Rows of each of so many files, spread over the manifest, that stand for the hosts of a source."""
FOOTERS = 20
"""Files whose columns are compared; a run compares those of all."""
PIECE = 1 << 20
"""Bytes from which the lines of a large file are estimated."""
DECOMPRESSORS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": partial(zlib.decompressobj, wbits=zlib.MAX_WBITS | 16),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ": lzma.LZMADecompressor,
}
"""By the first bytes of a compressed file."""


@dataclass(frozen=True)
class SampleRow:
    """A row as the run will read it."""

    image: str
    """Address that will be requested, path in the image folder, or place in a tar."""
    texts: list[str]
    problem: str | None = None
    """Why the row will fail, as far as its url shows it."""


@dataclass
class SourceRows:
    """What the manifest of a source holds."""

    files: int
    bytes: int
    """Size of the files; compressed ones as they are."""
    rows: int | None = None
    """None if it is unknown until the files are read."""
    estimated: bool = False
    """`rows` is derived from a part of the files."""
    tars: int = 0
    """Files that are image tars; they are not in `rows`."""
    used: dict[str, str] = field(default_factory=dict)
    """"url", "caption", "truth" → name of the column."""
    carried: dict[str, str] = field(default_factory=dict)
    """Columns that the run carries: name in the run → type."""
    unused: list[str] = field(default_factory=list)
    """Columns that are left behind."""
    samples: list[SampleRow] = field(default_factory=list)
    lack: str | None = None
    """That a tar has no texts, and what it has."""


def look_at_rows(
    source: SourceSection, fetch: FetchConfig, section: str
) -> tuple[SourceRows, list[str | None]]:
    """Count or estimate the rows of a source, and read its first ones.

    Args:
        source: the section of the config.
        fetch: its fetch settings, with the place of relative urls.
        section: dotted path of its manifest section, for messages.

    Returns:
        What was found, and the urls of some rows, spread over the files.

    Raises:
        ManifestError: a file cannot be read.
        StoreError: an image tar cannot be read.
    """
    config = source.rows
    files = find_files(config, section)
    found = SourceRows(len(files), sum(map(size_of, files)))
    tars = [file for file in files if file.format == "tar"]
    others = [file for file in files if file.format != "tar"]
    found.tars = len(tars)
    reader = ColumnReader(config)
    first: list[ManifestRow] = []
    urls: list[str | None] = []
    if others:
        first, urls = _read_spread(others, reader, section)
        found.rows, found.estimated = _count_rows(others, reader, section)
    else:
        first, found.lack = _first_of_tar(tars[0], source, fetch, section)
    found.samples = [_sample_of(row, fetch, in_tar=not others) for row in first]
    names = zip(("url", "caption", "truth"), reader.found, strict=True)
    found.used = {role: name for role, name in names if name is not None}
    choice = choose_carried(_spread(files, FOOTERS), config, section)
    found.carried = {each.name: str(each.type) for each in choice.fields}
    if config.hash_column is not None:
        found.used["hash"] = config.hash_column
    found.used |= {f"captions of {who}": column for who, column in config.synthetic_columns.items()}
    used = {name.strip().casefold() for name in found.used.values()}
    used |= {each.column.strip().casefold() for each in choice.fields}
    seen = dict.fromkeys([*reader.seen, *choice.left])
    found.unused = [name for name in seen if name.strip().casefold() not in used]
    return found, urls


def _spread(files: Sequence[ManifestFile], limit: int) -> list[ManifestFile]:
    """At most so many files, evenly spread."""
    return [files[i * len(files) // limit] for i in range(limit)] if len(files) > limit else list(files)


def _read_spread(
    files: Sequence[ManifestFile], reader: ColumnReader, section: str
) -> tuple[list[ManifestRow], list[str | None]]:
    """The first rows of the first file, and urls of files that are spread over the manifest."""
    step = max(1, len(files) // HOST_FILES)
    first: list[ManifestRow] = []
    urls: list[str | None] = []
    for number, file in enumerate(files[::step][:HOST_FILES]):
        rows = list(islice(read_rows(file, reader.config, section, reader), HOST_ROWS))
        urls += [row["url"] for row in rows if "image_file" not in row]
        if not number:
            first = rows[:SAMPLES]
    return first, urls


def _first_of_tar(
    tar: ManifestFile, source: SourceSection, fetch: FetchConfig, section: str
) -> tuple[list[ManifestRow], str | None]:
    """The first rows of a tar, and what it has instead of texts if its first samples have none."""
    config, lack = source.rows, None
    sidecars = read_sidecars(tar.fs.unstrip_protocol(tar.path), config, fetch.max_bytes)
    if sidecars.lacks_texts and not is_no_column(config.caption_column):
        counted = f"none of the first {len(sidecars.rows):,} samples has a text"
        lack = f"{counted}: {describe_lack(sidecars, config, section)}"
    return [
        {"url": row["url"], "texts": row["texts"], "truth": None} for row in sidecars.rows[:SAMPLES]
    ], lack


def _sample_of(row: ManifestRow, fetch: FetchConfig, *, in_tar: bool) -> SampleRow:
    url = row["url"] or ""
    if in_tar or "image_file" in row:
        return SampleRow(url, row["texts"])
    try:
        address, is_on_web = locate_image(url, fetch)
        if is_on_web:
            parse_http_url(address)
        elif fetch.image_root is not None:
            address = f"{fetch.image_root.rstrip('/')}/{address}"
        return SampleRow(address, row["texts"])
    except Failure as failure:
        return SampleRow(url, row["texts"], f"{failure.status}: {failure.message}")


def _count_rows(files: Sequence[ManifestFile], reader: ColumnReader, section: str) -> tuple[int | None, bool]:
    """(number of rows, whether it is estimated); None if it cannot be known without reading everything."""
    parquet = [file for file in files if file.format == "parquet"]
    text = [file for file in files if file.format != "parquet"]
    step = -(-len(parquet) // COUNTED_FOOTERS) or 1
    counts = [_footer_rows(file) for file in parquet[::step]]
    rows = round(sum(counts) / len(counts) * len(parquet)) if counts else 0
    if sum(map(size_of, text)) <= COUNTED_BYTES:
        rows += sum(1 for file in text for _ in read_rows(file, reader.config, section, reader))
        return rows, step > 1
    if any(file.format == "json" for file in text):
        return None, False  # a document, or lines: only reading all of it tells
    lines = [_estimate_lines(file) for file in text[:: max(1, len(text) // HOST_FILES)][:HOST_FILES]]
    size = sum(size for size, _ in lines)
    rows += round(sum(count for _, count in lines) * sum(map(size_of, text)) / max(size, 1))
    return rows, True


def _footer_rows(file: ManifestFile) -> int:
    with file.fs.open(file.path, "rb") as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


def _estimate_lines(file: ManifestFile) -> tuple[int, int]:
    """(bytes, lines in them) of the beginning of a file; of a compressed one, compressed bytes."""
    with file.fs.open(file.path, "rb") as stream:
        piece = stream.read(PIECE)
    for mark, make in DECOMPRESSORS.items():
        if piece.startswith(mark):
            return len(piece), make().decompress(piece).count(b"\n")
    return len(piece), piece.count(b"\n")


def size_of(file: ManifestFile) -> int:
    """Size of a file as its listing says (`ManifestFile.versions`); 0 if it does not."""
    size = file.versions[0].split("\0")[1]
    return int(size) if size.isdigit() else 0
