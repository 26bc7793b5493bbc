"""The config section of captions from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from capfilt.stages.errors import UserError

Join = Literal["key", "url", "uid"]


@dataclass(frozen=True, kw_only=True)
class CandidatesConfig:
    """Captions of a captioner that are judged beside the run's own. Its name stands in the column
    `captioner`."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    files: str | tuple[str, ...] = ""
    """Files with one caption per row (or a list of captions): Parquet, CSV, TSV, JSON or JSONL; file, glob,
    folder or list of them; local or any fsspec URL."""
    join: Join
    """How a caption finds its image: `url`, as the manifest of the source has it; `uid`, by `rows.id_column`
    of the source; `key`, the key of the corpus."""
    join_column: str | None = None
    """Column of the files with that value. Default: the usual names of a url, the source's `id_column`, or
    `key`."""
    text_column: str | None = None
    """Column with the caption; the usual names are tried if it is not given."""
    source: str | None = None
    """The web source whose images are described; must be given if there are several."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options for reading the files."""


class CandidatesError(UserError):
    """Captions from elsewhere cannot be used; the message names the key and what to do."""
