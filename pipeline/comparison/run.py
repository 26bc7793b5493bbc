"""One of the two runs of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from capfilt.pipeline.config.load import to_json_data
from capfilt.pipeline.nodes.report import ImageReader, collect_scores
from capfilt.pipeline.report.metrics_file import Scores
from capfilt.pipeline.report.tables import RoundTables, Row
from capfilt.pipeline.rundir.contents.round_files import RoundFiles, find_round_files
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.storage.layout import DEFAULT_VERDICTS


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """A round of a run, opened for reading."""

    letter: str
    """"A" or "B"."""
    name: str
    address: str
    """Its run directory."""
    round: int
    verdicts: str
    """The set of verdicts."""
    policy: str
    """The policy of the set in words; "" for the verdicts of the run."""
    settings: dict[str, Any]
    """The resolved config."""
    web_sources: list[str]
    files: RoundFiles
    tables: RoundTables
    scores: dict[str, Scores]
    """Scores of its models by task."""
    read_image: Callable[[str, str], bytes | None]

    def models(self) -> list[Row]:
        """The different settings of its candidates: captioner, filter and threshold among them."""
        return self.tables.settings()


def open_compared(letter: str, run_dir: RunDir, round_: int, verdicts: str = DEFAULT_VERDICTS) -> ComparedRun:
    """Open a round of a run.

    Raises:
        VerdictSetError: the round has no such set, or its candidates have been replaced since.
    """
    files = find_round_files(run_dir, round_, verdicts, carried=True)
    return ComparedRun(
        letter=letter,
        name=run_dir.config.run.name,
        address=run_dir.store.url.rstrip("/"),
        round=round_,
        verdicts=verdicts,
        policy="" if files.verdict_set is None else str(files.verdict_set.policy),
        settings=to_json_data(run_dir.config),
        web_sources=list(run_dir.config.of_kind("web")),
        files=files,
        tables=RoundTables(
            files.candidates, files.corpus, files.storage_options, files.verdicts, files.schema
        ),
        scores=collect_scores(run_dir, round_),
        read_image=ImageReader(run_dir.store),
    )
