"""The config section of a source's manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from capfilt.stages.errors import UserError
from capfilt.stages.rows import ROWS_PER_SHARD_LIMIT

EXTRA_KEYS = (
    "keep_columns",
    "rename_columns",
    "column_types",
    "id_column",
    "hash_column",
    "synthetic_columns",
)
"""Keys that later versions have added. They count in fingerprints only where they are set."""
NO_COLUMN = "none"
"""Value of a column key that says: there is no such column, on purpose."""


@dataclass(frozen=True, kw_only=True)
class ManifestConfig:
    """Where the rows of a source come from and what its columns are called."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    manifest: str | tuple[str, ...] = ""
    """File, glob, range (`{00000..00123}.tar`), folder or list of them; local or any fsspec URL. Parquet
    (also with embedded images), CSV, TSV, JSON, JSONL (each also .gz), COCO / Karpathy / BLIP / Visual Genome
    annotation json, urls line by line (txt; with captions in a parallel file, see `stages.manifest.text`), or
    image tars (WebDataset, img2dataset, DataComp). In a folder, names that begin with `_` or `.` are left
    out, and so are the Parquet and statistics files beside tars of the same name. In a TSV quotes have no
    meaning; `format: csv` reads a file with tabs and quotes."""
    format: Literal["auto", "parquet", "csv", "tsv", "jsonl", "json", "txt", "tar"] = "auto"
    """Format of the files; `auto`: by the suffix of each file."""
    url_column: str | None = None
    """Column of the image's url or path; the usual names are tried if it is not given. Case and surrounding
    spaces do not count. In tars: key of the url in the JSON member."""
    caption_column: str | None = None
    """Column of the text or the list of texts; the usual names are tried if it is not given. Numbers are no
    texts, except in CSV and TSV, where everything is text. `none`: the source has no texts, on purpose. In
    tars: key of the text in the JSON member, or ending of a text member."""
    truth_column: str | None = None
    """Column that says what is really wrong with a text, for data with planted noise: `clean`, `incomplete`
    (describes a part of the image) or a kind of noise. Used for the filter's precision, recall and AUC, and
    never given to a model."""
    columns: tuple[str, ...] = ()
    """Column names of a CSV/TSV file without a header line (CC3M: `[caption, url]`)."""
    splits: tuple[str, ...] = ()
    """Splits of Karpathy's dataset json to read, e.g. `[train, restval]`; required for a file with several
    splits."""
    keep_columns: str | tuple[str, ...] = ()
    """Columns that the run carries into corpus and candidates, with their types: a list of names, or `all`
    (every column that is not read as something else and holds no bytes). In tars: keys of the JSON member."""
    rename_columns: dict[str, str] = field(default_factory=dict)
    """Other names for carried columns, `{key: laion_key}`; needed where capfilt has a column of the name."""
    column_types: dict[str, str] = field(default_factory=dict)
    """Arrow types of carried columns, `{similarity: float32}`. Default: those of Parquet files; in CSV and
    TSV everything is text; in JSON what the first 1,000 records of up to 20 files show. A value that does not
    fit becomes null and is counted."""
    id_column: str | None = None
    """Column with your id of each row (`uid`), which is carried. A row without one, or two rows with the same
    one, are refused when the manifest is cut."""
    hash_column: str | None = None
    """Column with the promised sha256 or md5 of the image's bytes, in hex; they are told apart by length. A
    row with another image ends as `hash_mismatch`. The promise comes out in the column `expected_hash`."""
    synthetic_columns: dict[str, str] = field(default_factory=dict)
    """Columns with captions that somebody else has written, by the name of their captioner, `{recap:
    re_caption}`. They are judged as synthetic texts."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options for reading the manifest (endpoint, profile, anonymous access)."""
    shard_size: Annotated[int, Ge(1), Le(ROWS_PER_SHARD_LIMIT)] = 1000
    """Manifest rows per shard: the unit of work, retry, commit and resume."""


class ManifestError(UserError):
    """A manifest cannot be used; the message names the file, the key and what to do."""


class ManifestChanged(ManifestError):
    """The files of a manifest, or the settings for reading them, are not those that were cut into shards."""
