"""What two runs have in common: images of the same key and bytes, and equal texts of these images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from capfilt.pipeline.comparison.run import ComparedRun
from capfilt.pipeline.evaluation.intervals import add_intervals
from capfilt.pipeline.report.tables import Row
from capfilt.stages.errors import UserError
from capfilt.stages.storage.sql import open_database


class ComparisonError(UserError):
    """Two runs that cannot be compared."""


@dataclass(frozen=True)
class SharedImages:
    """Judged images, counted."""

    a: int
    """Images of A with candidates."""
    b: int
    shared: int
    """Images with the same source, key and bytes in both."""
    differing: int
    """Images with the same source and key, but other bytes."""


@dataclass(frozen=True)
class Agreement:
    """Verdicts of both runs on the texts of one origin that both have judged."""

    origin: str
    texts: int
    kept: int
    """Kept by both."""
    only_a: int
    """Kept by A only."""
    only_b: int
    dropped: int
    """Dropped by both."""

    @property
    def share(self) -> float | None:
        """Share of texts with the same verdict; None without texts."""
        return (self.kept + self.dropped) / self.texts if self.texts else None


@dataclass(frozen=True)
class Disagreement:
    """A text that only one of the runs keeps."""

    kept_by: str
    """"A" or "B"."""
    origin: str
    source: str
    key: str
    text: str
    a: float
    """ITM probability in A."""
    b: float


class SharedTexts:
    """The texts of two runs. An equal text of an image counts once, and is kept if one of its copies is."""

    def __init__(self, a: ComparedRun, b: ComparedRun) -> None:
        self._sql = open_database()
        for name, run in (("a", a), ("b", b)):
            self._sql.register("texts", run.tables.read_texts())
            self._sql.execute(f"CREATE TABLE {name} AS SELECT * FROM texts")
            self._sql.unregister("texts")
            self._sql.execute(
                f"CREATE TABLE images_{name} AS SELECT source, key, any_value(sha256) AS sha256 "
                f"FROM {name} GROUP BY ALL"
            )
        self._sql.execute(
            "CREATE TABLE images AS SELECT source, key FROM images_a JOIN images_b USING (source, key) "
            "WHERE images_a.sha256 IS NOT DISTINCT FROM images_b.sha256"
        )
        self._sql.execute(
            "CREATE VIEW shared AS SELECT source, key, origin, text, a.kept AS kept_a, b.kept AS kept_b, "
            "a.itm_prob AS itm_a, b.itm_prob AS itm_b FROM a JOIN b USING (source, key, origin, text) "
            "SEMI JOIN images USING (source, key) WHERE a.kept IS NOT NULL AND b.kept IS NOT NULL"
        )

    def close(self) -> None:
        """As `RoundTables.close`."""
        self._sql.close()

    def images(self) -> SharedImages:
        """Numbers of images.

        Raises:
            ComparisonError: no image is in both.
        """
        (counts,) = self._rows(
            "SELECT (SELECT count(*) FROM images_a) AS a, (SELECT count(*) FROM images_b) AS b, "
            "(SELECT count(*) FROM images) AS shared, "
            "(SELECT count(*) FROM images_a JOIN images_b USING (source, key)) "
            "- (SELECT count(*) FROM images) AS differing"
        )
        if not counts["shared"]:
            raise ComparisonError(
                f"the runs share no image: A has candidates of {counts['a']:,} images, B of {counts['b']:,}, "
                f"and {counts['differing']:,} have the same source and key, but other bytes; "
                f"compare runs on the same manifest"
            )
        return SharedImages(**counts)

    def ratios(self, name: str) -> list[Row]:
        """Noise ratios of the different texts of the shared images in run "a" or "b", by origin."""
        return add_intervals(
            self._rows(
                "SELECT origin, count(kept) AS judged, count(*) FILTER (kept) AS kept, "
                "count(*) FILTER (NOT kept) AS dropped, dropped / nullif(judged, 0) AS noise_ratio "
                f"FROM {name} SEMI JOIN images USING (source, key) GROUP BY origin ORDER BY origin DESC"
            )
        )

    def agreements(self) -> list[Agreement]:
        """Verdicts on the texts that both runs have judged, by origin, web first."""
        rows = self._rows(
            "SELECT origin, count(*) AS texts, count(*) FILTER (kept_a AND kept_b) AS kept, "
            "count(*) FILTER (kept_a AND NOT kept_b) AS only_a, "
            "count(*) FILTER (kept_b AND NOT kept_a) AS only_b, "
            "count(*) FILTER (NOT kept_a AND NOT kept_b) AS dropped "
            "FROM shared GROUP BY origin ORDER BY origin DESC"
        )
        return [Agreement(**row) for row in rows]

    def disagreements(self, limit: int) -> list[Disagreement]:
        """Texts that only one run keeps: of each origin and run those whose ITM probabilities differ most."""
        rows = self._rows(
            "SELECT CASE WHEN kept_a THEN 'A' ELSE 'B' END AS kept_by, origin, source, key, text, "
            "itm_a AS a, itm_b AS b FROM shared WHERE kept_a <> kept_b "
            "QUALIFY row_number() OVER (PARTITION BY origin, kept_by "
            "ORDER BY abs(itm_a - itm_b) DESC, md5(concat_ws('/', source, key, text))) <= ? "
            "ORDER BY origin DESC, kept_by, abs(itm_a - itm_b) DESC, md5(concat_ws('/', source, key, text))",
            [limit],
        )
        return [Disagreement(**row) for row in rows]

    def _rows(self, query: str, parameters: Any = ()) -> list[Row]:
        rows: list[Row] = self._sql.execute(query, parameters).to_arrow_table().to_pylist()
        return rows
