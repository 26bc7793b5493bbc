"""SQL over the files of one round: what was kept, why rows failed, what the filter's scores look like.

The files come as explicit lists, because commit records decide which of them count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from capfilt.pipeline.evaluation.drift import TextDrift, text_drift
from capfilt.pipeline.evaluation.filter_quality import CLEAN, FilterQuality, filter_quality
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA
from capfilt.stages.storage.sql import database, open_parquet

SCORE_BINS = 1000
"""Resolution of the score tables: thresholds in steps of 0.001."""
EXAMPLE_FILES = 100
"""Shards that examples and texts are drawn from; evenly spread, and the same ones in every round."""
DRIFT_TEXTS = 20_000
"""Texts per origin that drift is measured on, one per image, the same images in every round."""

_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/:?#]+)"  # without user name and port

Row = dict[str, Any]


@dataclass(frozen=True)
class Candidate:
    """One judged text of an example image."""

    origin: str
    text: str
    itm_prob: float | None
    itc_sim: float | None
    kept: bool | None
    flags: tuple[str, ...]
    truth: str | None


@dataclass(frozen=True)
class Example:
    """An image with all its texts; `section` says why it was chosen."""

    section: str
    source: str
    key: str
    width: int | None
    height: int | None
    candidates: list[Candidate] = field(default_factory=list)


class RunTables:
    """The candidates of one round and the corpus they came from, as tables.

    One pass over all candidates makes a small table of counts, from which every ratio and curve is taken.

    Args:
        candidate_files, corpus_files: committed Parquet files (schemas in stages/rows.py).
        storage_options: fsspec options of their filesystem.
    """

    def __init__(
        self,
        candidate_files: Sequence[str],
        corpus_files: Sequence[str],
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._sql = database()
        self._sql.register("corpus", open_parquet(corpus_files, CORPUS_SCHEMA, storage_options))
        self._sql.register("candidates", open_parquet(candidate_files, CANDIDATE_SCHEMA, storage_options))
        some = _spread(candidate_files, EXAMPLE_FILES)
        self._sql.register("some_candidates", open_parquet(some, CANDIDATE_SCHEMA, storage_options))
        self._sql.execute(
            "CREATE TABLE outcomes AS SELECT source, shard, status, count(*) AS n FROM corpus GROUP BY ALL"
        )
        self._sql.execute(
            "CREATE TABLE truths AS SELECT source, key, any_value(truth) AS truth FROM corpus "
            "WHERE truth IS NOT NULL GROUP BY ALL"
        )
        for view, table in (("judged", "candidates"), ("some_judged", "some_candidates")):
            # What was planted is the text that came with the image; captions have no truth.
            self._sql.execute(
                f"CREATE VIEW {view} AS SELECT c.*, CASE WHEN c.origin = 'web' THEN t.truth END AS truth "
                f"FROM {table} c LEFT JOIN truths t USING (source, key)"
            )
        self._sql.execute(
            "CREATE TABLE cells AS SELECT source, origin, truth, kept, "
            f"least(floor(itm_prob * {SCORE_BINS}), {SCORE_BINS - 1})::INT AS bin, count(*) AS n "
            "FROM judged GROUP BY ALL"
        )

    def noise_rows(self) -> list[Row]:
        """By source and origin: candidates, judged, kept, dropped, noise_ratio, planted.

        noise_ratio = dropped / judged and planted = noise / judged candidates with a truth; None for 0 / 0.
        A candidate whose verdict is NULL was not judged.
        """
        return self._rows(
            f"SELECT source, origin, {_RATIOS} FROM cells GROUP BY ALL ORDER BY source, origin DESC"
        )

    def origin_rows(self) -> list[Row]:
        """The same by origin alone, web before synthetic."""
        return self._rows(f"SELECT origin, {_RATIOS} FROM cells GROUP BY ALL ORDER BY origin DESC")

    def planted_rows(self) -> list[Row]:
        """By kind of planted truth, "clean" first: judged, dropped and dropped_ratio."""
        return self._rows(
            "SELECT truth AS kind, sum(n)::BIGINT AS judged, "
            "coalesce(sum(n) FILTER (NOT kept), 0)::BIGINT AS dropped, dropped / judged AS dropped_ratio "
            "FROM cells WHERE truth IS NOT NULL AND kept IS NOT NULL GROUP BY truth "
            "ORDER BY truth <> ?, judged DESC, kind",
            [CLEAN],
        )

    def filter_quality(self) -> FilterQuality | None:
        """AUC, precision and recall at finding the planted noise; see `metrics.filter_quality`."""
        columns = self._sql.execute(
            "SELECT truth, itm_prob, kept FROM judged WHERE truth IS NOT NULL AND kept IS NOT NULL"
        ).fetchall()
        return filter_quality(*zip(*columns, strict=True)) if columns else None

    def score_bins(self) -> list[Row]:
        """Scores counted in `SCORE_BINS` equal bins of [0, 1] by origin and noise (None without a truth)."""
        return self._rows(
            "SELECT origin, truth <> ? AS noise, bin, sum(n)::BIGINT AS n FROM cells "
            "WHERE bin IS NOT NULL AND kept IS NOT NULL GROUP BY ALL ORDER BY ALL",
            [CLEAN],
        )

    def status_rows(self) -> list[Row]:
        """Rows of the corpus by status: status, n; success first, then the commonest."""
        return self._rows(
            "SELECT status, sum(n)::BIGINT AS n FROM outcomes GROUP BY status "
            "ORDER BY status <> 'success', n DESC, status"
        )

    def outcome_rows(self) -> list[Row]:
        """By source, shard and status: n. As many rows as shards have statuses, however many rows these have."""
        return self._rows("SELECT source, shard, status, n FROM outcomes ORDER BY ALL")

    def source_rows(self) -> list[Row]:
        """By source: rows, stored, failed, commonest failure with its count, and statuses, [(status, n)]."""
        rows = self._rows(_failures("source", "outcomes") + " ORDER BY source")
        by_status = self._rows(
            "SELECT source, status, sum(n)::BIGINT AS n FROM outcomes WHERE status <> 'success' "
            "GROUP BY ALL ORDER BY source, n DESC, status"
        )
        for row in rows:
            row["statuses"] = [(s["status"], s["n"]) for s in by_status if s["source"] == row["source"]]
        return rows

    def shard_rows(self, limit: int = 10) -> list[Row]:
        """The shards with most failures: source, shard and what `source_rows` has but for statuses."""
        return self._rows(
            _failures("source, shard", "outcomes")
            + " HAVING failed > 0 ORDER BY failed DESC, rows, source, shard LIMIT ?",
            [limit],
        )

    def host_rows(self, limit: int = 10) -> list[Row]:
        """The hosts with most failures (then most rows): host, rows, stored, failed, commonest failure, its count.

        Hosts are counted once, when this is first called.
        """
        self._sql.execute(
            "CREATE TABLE IF NOT EXISTS hosts AS SELECT lower(regexp_extract(url, $host, 1)) AS host, status, "
            "count(*) AS n FROM corpus GROUP BY ALL",
            {"host": _HOST},
        )
        return self._rows(
            _failures("host", "hosts") + " HAVING host <> '' ORDER BY failed DESC, rows DESC, host LIMIT ?",
            [limit],
        )

    def settings(self) -> list[Row]:
        """The different ways the candidates were made: captioner, filter, threshold, decoding.

        Web texts name no captioner; they tell something only where nothing was captioned.
        """
        return self._rows(
            'SELECT DISTINCT captioner, "filter", threshold, top_p, top_k, repetition_penalty '
            "FROM candidates WHERE captioner IS NOT NULL OR (SELECT count(captioner) FROM candidates) = 0 "
            "ORDER BY ALL"
        )

    def drift(self) -> dict[str, TextDrift | None]:
        """Diversity of the texts by origin, the first text of each image, on the same images every round."""
        found: dict[str, TextDrift | None] = {}
        for (origin,) in self._sql.execute("SELECT DISTINCT origin FROM cells ORDER BY ALL DESC").fetchall():
            texts = self._sql.execute(
                "SELECT text FROM some_candidates WHERE origin = ? AND caption_index = 0 AND text IS NOT NULL "
                "ORDER BY md5(concat_ws('/', source, key)), source, key LIMIT ?",
                [origin, DRIFT_TEXTS],
            ).fetchall()
            found[origin] = text_drift([text for (text,) in texts])
        return found

    def examples(self, per_section: int) -> list[Example]:
        """Images drawn by the hash of their key, by verdicts; the same in every run over the same files.

        Sections: "<web verdict>/<synthetic verdict>" with "kept", "dropped" or "none" (an image is "kept" by an
        origin when any of its texts is); and of the web texts with a truth the surest mistakes, "false alarm"
        (clean, dropped) and "miss" (noise, kept); and "close call", nearest to the threshold.
        """
        self._sql.execute(_PICKS, {"n": per_section, "clean": CLEAN})
        rows = self._sql.execute(
            "SELECT p.section, p.source, p.key, j.width, j.height, j.origin, j.text, j.itm_prob, j.itc_sim, "
            "j.kept, j.flags, j.truth FROM picks p JOIN some_judged j USING (source, key) "
            "ORDER BY p.section, p.place, j.origin DESC, j.caption_index"
        ).fetchall()
        found: dict[tuple[str, str, str], Example] = {}
        for section, source, key, width, height, *candidate in rows:
            example = found.setdefault((section, source, key), Example(section, source, key, width, height))
            origin, text, itm_prob, itc_sim, kept, flags, truth = candidate
            example.candidates.append(
                Candidate(origin, text or "", itm_prob, itc_sim, kept, tuple(flags or ()), truth)
            )
        return list(found.values())

    def _rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
        rows: list[Row] = self._sql.execute(query, list(parameters)).to_arrow_table().to_pylist()
        return rows


def by_source(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """{source: {origin: noise ratio}} of `RunTables.noise_rows`."""
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        found.setdefault(row["source"], {})[row["origin"]] = row["noise_ratio"]
    return found


def _spread(files: Sequence[str], limit: int) -> list[str]:
    """At most `limit` files, evenly spaced in their order: the same shards in rounds with the same shards."""
    files = sorted(files)
    return [files[i * len(files) // limit] for i in range(limit)] if len(files) > limit else files


_RATIOS = f"""
    sum(n)::BIGINT AS candidates,
    coalesce(sum(n) FILTER (kept IS NOT NULL), 0)::BIGINT AS judged,
    coalesce(sum(n) FILTER (kept), 0)::BIGINT AS kept,
    coalesce(sum(n) FILTER (NOT kept), 0)::BIGINT AS dropped,
    dropped / nullif(judged, 0) AS noise_ratio,
    coalesce(sum(n) FILTER (kept IS NOT NULL AND truth <> '{CLEAN}'), 0)
        / nullif(sum(n) FILTER (kept IS NOT NULL AND truth IS NOT NULL), 0) AS planted
"""


def _failures(columns: str, table: str) -> str:
    """Counts by these columns of a table of (…, status, n)."""
    failed = "status <> 'success'"
    # The first name of the commonest: "dns" before "timeout" where there are as many.
    best = f"ORDER BY n DESC, status) FILTER ({failed})"
    return f"""
    SELECT {columns}, sum(n)::BIGINT AS rows, coalesce(sum(n) FILTER (NOT {failed}), 0)::BIGINT AS stored,
        coalesce(sum(n) FILTER ({failed}), 0)::BIGINT AS failed,
        first(status {best} AS commonest, first(n {best} AS commonest_rows
    FROM (SELECT {columns}, status, sum(n)::BIGINT AS n FROM {table} GROUP BY ALL) GROUP BY {columns}"""


_PICKS = """
CREATE OR REPLACE TABLE picks AS
WITH images AS (
    SELECT source, key, md5(concat_ws('/', source, key)) AS hash,
        CASE bool_or(kept) FILTER (origin = 'web')
            WHEN true THEN 'kept' WHEN false THEN 'dropped' ELSE 'none' END AS web,
        CASE bool_or(kept) FILTER (origin = 'synthetic')
            WHEN true THEN 'kept' WHEN false THEN 'dropped' ELSE 'none' END AS synthetic
    FROM some_candidates GROUP BY ALL
), texts AS (
    SELECT source, key, md5(concat_ws('/', source, key)) AS hash, itm_prob, truth, kept,
        abs(itm_prob - threshold) AS distance
    FROM some_judged WHERE kept IS NOT NULL
), ranked AS (
    SELECT web || '/' || synthetic AS section, source, key,
        row_number() OVER (PARTITION BY web, synthetic ORDER BY hash, source, key) AS place
    FROM images WHERE web <> 'none' OR synthetic <> 'none'
    UNION ALL SELECT 'false alarm', source, key, row_number() OVER (ORDER BY itm_prob, hash)
    FROM texts WHERE truth = $clean AND NOT kept
    UNION ALL SELECT 'miss', source, key, row_number() OVER (ORDER BY itm_prob DESC, hash)
    FROM texts WHERE truth <> $clean AND kept
    UNION ALL SELECT 'close call', source, key, row_number() OVER (ORDER BY min(distance), any_value(hash))
    FROM texts GROUP BY source, key
)
SELECT section, source, key, min(place) AS place FROM ranked WHERE place <= $n GROUP BY ALL
"""
