"""The config section of a source's manifest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from capfilt.stages.errors import UserError
from capfilt.stages.rows import ROWS_PER_SHARD_LIMIT

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
    storage_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options for reading the manifest (endpoint, profile, anonymous access)."""
    shard_size: Annotated[int, Ge(1), Le(ROWS_PER_SHARD_LIMIT)] = 1000
    """Manifest rows per shard: the unit of work, retry, commit and resume."""


class ManifestError(UserError):
    """A manifest cannot be used; the message names the file, the key and what to do."""


class ManifestChanged(ManifestError):
    """The files of a manifest, or the settings for reading them, are not those that were cut into shards."""
