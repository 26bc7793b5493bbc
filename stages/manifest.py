"""Manifests of any supported form, cut once into an index of fixed slices.

The index is a handful of Parquet files under `corpus/<source>/index/`, one row group per shard, so that a
worker reads exactly its slice with one ranged read whatever the manifest was: a 20 GB TSV, a thousand Parquet
files with row groups of a million, a COCO annotation file, or image tars that already exist.
`index/index.json` is written last and decides that the index is whole.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Le

from stages.manifest_rows import ManifestError as ManifestError
from stages.manifest_rows import rows_of
from stages.rows import ROWS_PER_SHARD_LIMIT
from stages.storage import open_filesystem
from stages.store import Store
from stages.text_lists import captions_beside

INDEX_SCHEMA = pa.schema(
    [("url", pa.string()), ("texts", pa.list_(pa.string())), ("truth", pa.string()), ("tar", pa.string())]
)
SHARDS_PER_PART = 1000
"""Row groups per index file: its footer stays about 1 MB, and 400 M rows make 400 files."""

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "txt",
    ".tar": "tar",
}


@dataclass(frozen=True, kw_only=True)
class ManifestConfig:
    """Where a source's rows come from and what its columns are called."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    manifest: str | tuple[str, ...] = ""
    """File, glob, folder or list of them; local or any fsspec URL. Parquet, CSV, TSV, JSON, JSONL (each also
    .gz), COCO / Karpathy / BLIP / Visual Genome annotation json, urls line by line (txt; with a file of captions beside it,
    see `stages.text_lists`), or image tars (WebDataset, img2dataset, DataComp)."""
    format: Literal["auto", "parquet", "csv", "tsv", "jsonl", "json", "txt", "tar"] = "auto"
    """`auto` goes by the file name."""
    url_column: str | None = None
    """Column of the image's url or path; looked for under the usual names when not given."""
    caption_column: str | None = None
    """Column of the text; looked for under the usual names when not given."""
    truth_column: str | None = None
    """Column that says what is really wrong with a text (`clean` or a kind of noise), where somebody planted
    the noise; used for the filter's precision, recall and AUC and never shown to a model."""
    columns: tuple[str, ...] = ()
    """Column names of a CSV/TSV file without a header line (CC3M: `[caption, url]`)."""
    splits: tuple[str, ...] = ()
    """Splits of Karpathy's dataset json that are meant, e.g. `[train, restval]`; such a file needs it."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options for reading the manifest (endpoint, profile, anonymous access)."""
    shard_size: Annotated[int, Ge(1), Le(ROWS_PER_SHARD_LIMIT)] = 1000
    """Manifest rows per shard: the unit of work, retry, commit and resume."""


@dataclass(frozen=True)
class Index:
    """What `index.json` says."""

    rows: int
    shards: int
    identity: str
    """sha256 over the names, sizes and modification marks of the manifest's files: the input's identity."""
    files: tuple[str, ...]

    @property
    def of_tars(self) -> bool:
        """Whether image tars are among the files: each is a shard and one row here, however many images it has."""
        return any(name.endswith(".tar") for name in self.files)


def build_index(config: ManifestConfig, store: Store, *, source: str) -> Index:
    """Cut the manifest into slices, or return the index that is there if it was cut from the same files.

    Args:
        config: the source's manifest section.
        store: the folder `corpus/<source>/index`.
        source: the source's name, for messages.

    Raises:
        ManifestError: nothing matches, a column is missing, the manifest is empty or has changed since.
    """
    where = f"sources.{source}"
    files = manifest_files(config, where)
    identity = _identity(files, config)
    known = _standing(config, identity, store, where)
    if known is not None:
        return Index(known["rows"], known["shards"], identity, tuple(known["files"]))
    rows, shards = _write_parts(config, files, store, where)
    if rows == 0:
        names = ", ".join(str(file) for file in files)
        raise ManifestError(f"{where}.manifest: {names} has no rows; give a manifest with some")
    index = Index(rows, shards, identity, tuple(str(file) for file in files))
    store.put_json("index.json", asdict(index))
    return index


def check_unchanged(config: ManifestConfig, store: Store, where: str) -> None:
    """The manifest is the one that the index in `store` was cut from, if there is one; cheap.

    Raises:
        ManifestError: it has changed.
    """
    _standing(config, _identity(manifest_files(config, where), config), store, where)


def _standing(config: ManifestConfig, identity: str, store: Store, where: str) -> dict[str, Any] | None:
    known: dict[str, Any] | None = store.find_json("index.json")
    if known is not None and known["identity"] != identity:
        raise ManifestError(
            f"{where}.manifest: {config.manifest} has changed since this run cut it into shards; "
            "put the old file back, or start another run directory (--set run.dir=...)"
        )
    return known


def check_manifest(config: ManifestConfig, where: str) -> None:
    """The manifest's files exist and its first file has a row with the columns asked for; cheap.

    Raises:
        ManifestError: as `build_index` would.
    """
    files = manifest_files(config, where)
    if files[0].form != "tar" and next(rows_of(files[0], config, where), None) is None and len(files) == 1:
        raise ManifestError(f"{where}.manifest: {files[0]} has no rows; give a manifest with some")


def read_slice(store: Store, shard: int) -> pa.Table:
    """Index rows of one shard (schema `INDEX_SCHEMA`)."""
    part, row_group = divmod(shard, SHARDS_PER_PART)
    # No read-ahead: of a part that holds 1,000 shards an object store is asked for the footer and this shard alone.
    with store.fs.open(store.path(_part_name(part)), "rb", cache_type="none") as stream:
        return pq.ParquetFile(stream, pre_buffer=True).read_row_group(row_group)


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest: its filesystem, path and form."""

    fs: Any
    path: str
    form: str
    captions: str | None = None
    """Path of the file whose lines are the captions of these urls."""

    def __str__(self) -> str:
        return self.path


def manifest_files(config: ManifestConfig, where: str) -> list[ManifestFile]:
    """Every file the `manifest` key names, in a fixed order."""
    patterns = [config.manifest] if isinstance(config.manifest, str) else list(config.manifest)
    if not any(patterns):
        raise ManifestError(f"{where}.manifest: nothing given; name a file, folder or glob")
    found: list[ManifestFile] = []
    for pattern in patterns:
        try:
            fs, path = open_filesystem(pattern, config.storage_options)
            paths = _expand(fs, path)
        except (OSError, ValueError, ImportError) as error:
            raise ManifestError(f"{where}.manifest: cannot read {pattern} ({error})") from error
        if not paths:
            raise ManifestError(
                f"{where}.manifest: no file at {pattern}; give an existing file, folder or glob"
            )
        found.extend(_file(fs, p, _form(p, config, where)) for p in paths)
    return found


def _file(fs: Any, path: str, form: str) -> ManifestFile:
    captions = captions_beside(path) if form == "txt" else None
    return ManifestFile(fs, path, form, captions if captions is not None and fs.exists(captions) else None)


def _expand(fs: Any, path: str) -> list[str]:
    if any(c in path for c in "*?["):
        return sorted(str(p) for p in fs.glob(path))
    if fs.isdir(path):
        # A text file in a folder is as likely a note, or the captions of another one.
        forms = set(FORMATS) - {".txt"}
        return sorted(p for p in (str(p) for p in fs.find(path)) if _suffix(p) in forms)
    return [path] if fs.exists(path) else []


def _suffix(path: str) -> str:
    return PurePosixPath(path.removesuffix(".gz")).suffix.lower()


def _form(path: str, config: ManifestConfig, where: str) -> str:
    if config.format != "auto":
        return config.format
    form = FORMATS.get(_suffix(path))
    if form is None:
        raise ManifestError(
            f"{where}.manifest: cannot tell the form of {path} by its name; "
            f"allowed endings: {', '.join(FORMATS)} (also .gz), or set {where}.format"
        )
    return form


def _identity(files: Sequence[ManifestFile], config: ManifestConfig) -> str:
    digest = hashlib.sha256()
    for fs, path in ((file.fs, path) for file in files for path in (file.path, file.captions) if path):
        info = fs.info(path)
        mark = info.get("ETag") or info.get("mtime") or info.get("LastModified") or ""
        digest.update(f"{PurePosixPath(path).name}\0{info.get('size')}\0{mark}\n".encode())
    reading = (
        config.url_column,
        config.caption_column,
        config.truth_column,
        config.columns,
        config.shard_size,
    )
    digest.update(repr(reading).encode())
    return digest.hexdigest()


def _write_parts(
    config: ManifestConfig, files: Sequence[ManifestFile], store: Store, where: str
) -> tuple[int, int]:
    """Write the index parts; each is built in memory (urls and texts of a million rows at most) and put whole."""
    rows = shards = 0
    sink: io.BytesIO | None = None
    writer: pq.ParquetWriter | None = None

    def close() -> None:
        nonlocal sink, writer
        if writer is not None and sink is not None:
            writer.close()
            store.put(_part_name((shards - 1) // SHARDS_PER_PART), sink.getvalue())
        sink = writer = None

    for table in _slices(config, files, where):
        if writer is None:
            sink = io.BytesIO()
            writer = pq.ParquetWriter(sink, INDEX_SCHEMA, compression="zstd")
        writer.write_table(table, row_group_size=table.num_rows)
        rows, shards = rows + table.num_rows, shards + 1
        if shards % SHARDS_PER_PART == 0:
            close()
    close()
    return rows, shards


def _part_name(part: int) -> str:
    return f"{part:05d}.parquet"


def _slices(config: ManifestConfig, files: Sequence[ManifestFile], where: str) -> Iterator[pa.Table]:
    """Tables of `shard_size` rows; a tar is a slice of its own, since its images are in it already."""
    pending: list[dict[str, Any]] = []
    for file in files:
        if file.form == "tar":
            yield pa.Table.from_pylist([{"tar": file.fs.unstrip_protocol(file.path)}], schema=INDEX_SCHEMA)
            continue
        for row in rows_of(file, config, where):
            pending.append(row)
            if len(pending) == config.shard_size:
                yield pa.Table.from_pylist(pending, schema=INDEX_SCHEMA)
                pending = []
    if pending:
        yield pa.Table.from_pylist(pending, schema=INDEX_SCHEMA)
