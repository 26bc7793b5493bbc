"""NEW FILE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capfilt.pipeline.report.tables import Row


@dataclass(frozen=True, kw_only=True)
class ReportInputs:
    """Everything a report says, or the places it reads it from."""

    run: str
    """Name of the run, or where it is."""
    round: int
    """Which round is reported."""
    candidate_files: Sequence[str]
    """Committed candidate files of this round: local paths or fsspec URLs, as the commit records list them."""
    corpus_files: Sequence[str]
    """Committed row files of every source's corpus."""
    read_image: Callable[[str, str], bytes | None]
    """(source, key) → the stored image, encoded; None when there is none. Asked for the examples only."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    """{"retrieval": {model: {...}}, "caption": {model: {...}}}; models are "pretrain.0", "pretrain.1", …"""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Node → how long it took."""
    config: Mapping[str, str] = field(default_factory=dict)
    """What to show of the config, in order: label → value."""
    previous: Sequence[Mapping[str, Any]] = ()
    """Reports of earlier rounds, as `previous_reports` reads them."""
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    """fsspec options of the filesystem the files are on."""
    duplicates: Sequence[Row] = ()
    """Pictures with most copies, as `pipeline.nodes.duplicates.most_copied_images` lists them."""
    examples_per_section: int = 8
    """Pictures in each group of examples."""
