"""Comparison of two runs: of their configs, their figures, and their verdicts on the same texts."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from capfilt.pipeline.comparison.figures import (
    Figure,
    Ratio,
    compare_corpora,
    compare_filters,
    compare_groups,
    compare_models,
    compare_texts,
    pair_ratios,
)
from capfilt.pipeline.comparison.run import ComparedRun
from capfilt.pipeline.comparison.settings import Setting, compare_settings
from capfilt.pipeline.comparison.shared import (
    Agreement,
    ComparisonError,
    Disagreement,
    SharedImages,
    SharedTexts,
)
from capfilt.pipeline.evaluation.groups import check_properties
from capfilt.pipeline.report.tables import DIGEST, Row

EXAMPLES = 12
"""Texts with different verdicts that are shown of each origin and run."""
OWN_CAPTIONER = "captioner of the run"
"""Stands for the digest of a run's only captioner, which differs from run to run."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that a comparison shows; differences are B − A."""

    a: ComparedRun
    b: ComparedRun
    settings: list[Setting]
    images: SharedImages
    corpora: list[Figure]
    ratios: list[Ratio]
    """By source and origin, over all candidates of each run."""
    captioners: list[Ratio]
    """Of synthetic texts, by source and captioner."""
    groups: dict[str, list[Ratio]]
    """By each property that was asked for."""
    shared: list[Ratio]
    """By origin, over the different texts of the shared images."""
    filters: list[Figure]
    texts: list[Figure]
    models: list[Figure]
    agreements: list[Agreement]
    disagreements: list[Disagreement]

    @property
    def file_name(self) -> str:
        """Name of the page in the report of A: the name of B's folder, and a hash of its address."""
        folder = re.sub(r"[^A-Za-z0-9._-]+", "-", self.b.address.rpartition("/")[2])[:60]
        place = f"{self.b.address} {self.b.round} {self.b.verdicts}"
        return f"{folder}-{hashlib.sha256(place.encode()).hexdigest()[:8]}.html"


def compare_runs(a: ComparedRun, b: ComparedRun, by: Sequence[str] = ()) -> Comparison:
    """Compare two runs.

    Args:
        by: properties of the candidates by which noise ratios are compared.

    Raises:
        ComparisonError: both are the same, or share no image.
        GroupError: one of them has no such property.
    """
    if (a.address, a.round, a.verdicts) == (b.address, b.round, b.verdicts):
        raise ComparisonError(f"{b.address}: is both A and B; give two different runs")
    if by:
        for run in (a, b):
            check_properties(by, run.files.schema)
    with closing(SharedTexts(a, b)) as found:
        return _compare(a, b, found, by)


def _compare(a: ComparedRun, b: ComparedRun, found: SharedTexts, by: Sequence[str]) -> Comparison:
    images = found.images()
    return Comparison(
        a=a,
        b=b,
        settings=compare_settings(a.settings, b.settings),
        images=images,
        corpora=compare_corpora(a, b),
        ratios=pair_ratios(a.tables.noise_rows(), b.tables.noise_rows(), ("source", "origin")),
        captioners=pair_ratios(_captioner_rows(a), _captioner_rows(b), ("source", "captioner")),
        groups=compare_groups(a, b, by),
        shared=pair_ratios(found.ratios("a"), found.ratios("b"), ("origin",)),
        filters=compare_filters(a, b),
        texts=compare_texts(a, b),
        models=compare_models(a, b),
        agreements=found.agreements(),
        disagreements=found.disagreements(EXAMPLES),
    )


def _captioner_rows(run: ComparedRun) -> list[Row]:
    rows = run.tables.captioner_rows(always=True)
    digests = {row["captioner"] for row in rows if DIGEST.fullmatch(row["captioner"])}
    if len(digests) != 1:
        return rows
    return [row | {"captioner": OWN_CAPTIONER} if row["captioner"] in digests else row for row in rows]
