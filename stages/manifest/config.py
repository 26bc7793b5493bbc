"""Where a source's rows come from: its config section, and the error of a manifest that cannot be used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from capfilt.stages.errors import UserError
from capfilt.stages.rows import ROWS_PER_SHARD_LIMIT


@dataclass(frozen=True, kw_only=True)
class ManifestConfig:
    """Where a source's rows come from and what its columns are called."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    manifest: str | tuple[str, ...] = ""
    """File, glob, folder or list of them; local or any fsspec URL. Parquet, CSV, TSV, JSON, JSONL (each also
    .gz), COCO / Karpathy / BLIP / Visual Genome annotation json, urls line by line (txt; with a file of captions beside it,
    see `stages.manifest.text`), or image tars (WebDataset, img2dataset, DataComp)."""
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


class ManifestError(UserError):
    """A manifest that cannot be used; the message names file, key and remedy."""
