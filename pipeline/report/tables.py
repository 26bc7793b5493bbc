"""SQL over the Parquet files of one round: verdicts, failures, scores, and examples.

The files are given as explicit lists, because the commit records decide which files count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from capfilt.pipeline.evaluation.drift import TextDrift, compute_text_drift
from capfilt.pipeline.evaluation.filter_quality import CLEAN, FilterQuality, compute_filter_quality
from capfilt.pipeline.report.examples import Example, select_examples
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA
from capfilt.stages.storage.sql import open_database, open_parquet

SCORE_BINS = 1000
"""Bins of a score in [0, 1]; thresholds can be compared in steps of 0.001."""
SAMPLED_FILES = 100
"""Candidate files that examples and texts are sampled from: evenly spaced, the same in every round."""
MAX_DRIFT_TEXTS = 20_000
"""Texts per origin over which drift is computed."""

_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/:?#]+)"  # without user name and port

Row = dict[str, Any]


class RoundTables:
    """The candidates of one round, and the corpus that they belong to, as SQL tables.

    One scan of the candidates makes a small table of counts, from which ratios and scores are computed.
    """

    def __init__(
        self,
        candidate_files: Sequence[str],
        corpus_files: Sequence[str],
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        """Open the files and count.

        Args:
            candidate_files: committed Parquet files of `stages.rows.CANDIDATE_SCHEMA`.
            corpus_files: committed Parquet files of `stages.rows.CORPUS_SCHEMA`.
            storage_options: fsspec options of the filesystem that holds the files.
        """
        self._sql = open_database()
        self._sql.register("corpus", open_parquet(corpus_files, CORPUS_SCHEMA, storage_options))
        self._sql.register("candidates", open_parquet(candidate_files, CANDIDATE_SCHEMA, storage_options))
        sampled = _sample_evenly(candidate_files, SAMPLED_FILES)
        self._sql.register("sampled_candidates", open_parquet(sampled, CANDIDATE_SCHEMA, storage_options))
        self._sql.execute(
            "CREATE TABLE outcomes AS SELECT source, shard, status, count(*) AS n FROM corpus GROUP BY ALL"
        )
        self._sql.execute(
            "CREATE TABLE truths AS SELECT source, key, any_value(truth) AS truth FROM corpus "
            "WHERE truth IS NOT NULL GROUP BY ALL"
        )
        for view, table in (("judged", "candidates"), ("sampled_judged", "sampled_candidates")):
            # The truth is that of the text that came with the image; captions have none.
            self._sql.execute(
                f"CREATE VIEW {view} AS SELECT c.*, CASE WHEN c.origin = 'web' THEN t.truth END AS truth "
                f"FROM {table} c LEFT JOIN truths t USING (source, key)"
            )
        self._sql.execute(
            "CREATE TABLE score_counts AS SELECT source, origin, truth, kept, "
            f"least(floor(itm_prob * {SCORE_BINS}), {SCORE_BINS - 1})::INT AS bin, count(*) AS n "
            "FROM judged GROUP BY ALL"
        )

    def noise_rows(self) -> list[Row]:
        """By source and origin: candidates, judged, kept, dropped, noise_ratio, planted.

        noise_ratio is dropped / judged; planted is the share of noise among the judged candidates with known
        truth. Both are None for 0 / 0. A candidate without a verdict was not judged.
        """
        return self._rows(
            f"SELECT source, origin, {_RATIOS} FROM score_counts GROUP BY ALL ORDER BY source, origin DESC"
        )

    def origin_rows(self) -> list[Row]:
        """The columns of `noise_rows` except source, by origin; web before synthetic."""
        return self._rows(f"SELECT origin, {_RATIOS} FROM score_counts GROUP BY ALL ORDER BY origin DESC")

    def planted_rows(self) -> list[Row]:
        """By truth (column kind), "clean" first: judged, dropped and dropped_ratio."""
        return self._rows(
            "SELECT truth AS kind, sum(n)::BIGINT AS judged, "
            "coalesce(sum(n) FILTER (NOT kept), 0)::BIGINT AS dropped, dropped / judged AS dropped_ratio "
            "FROM score_counts WHERE truth IS NOT NULL AND kept IS NOT NULL GROUP BY truth "
            "ORDER BY truth <> ?, judged DESC, kind",
            [CLEAN],
        )

    def filter_quality(self) -> FilterQuality | None:
        """How well the filter found the planted noise; None unless there is known truth of both classes."""
        columns = self._sql.execute(
            "SELECT truth, itm_prob, kept FROM judged WHERE truth IS NOT NULL AND kept IS NOT NULL"
        ).fetchall()
        return compute_filter_quality(*zip(*columns, strict=True)) if columns else None

    def score_bins(self) -> list[Row]:
        """Counts of scores in `SCORE_BINS` equal bins: origin, noise (None without truth), bin, n."""
        return self._rows(
            "SELECT origin, truth <> ? AS noise, bin, sum(n)::BIGINT AS n FROM score_counts "
            "WHERE bin IS NOT NULL AND kept IS NOT NULL GROUP BY ALL ORDER BY ALL",
            [CLEAN],
        )

    def status_rows(self) -> list[Row]:
        """Rows of the corpus by status: status, n; success first, then the most common failure."""
        return self._rows(
            "SELECT status, sum(n)::BIGINT AS n FROM outcomes GROUP BY status "
            "ORDER BY status <> 'success', n DESC, status"
        )

    def outcome_rows(self) -> list[Row]:
        """Rows of the corpus by source, shard and status: source, shard, status, n."""
        return self._rows("SELECT source, shard, status, n FROM outcomes ORDER BY ALL")

    def source_rows(self) -> list[Row]:
        """By source: rows, stored, failed, commonest, commonest_rows, statuses.

        `commonest` is the most common failure, `commonest_rows` its count, and statuses lists [(failure, n)].
        """
        rows = self._rows(_failures("source", "outcomes") + " ORDER BY source")
        by_status = self._rows(
            "SELECT source, status, sum(n)::BIGINT AS n FROM outcomes WHERE status <> 'success' "
            "GROUP BY ALL ORDER BY source, n DESC, status"
        )
        for row in rows:
            row["statuses"] = [(s["status"], s["n"]) for s in by_status if s["source"] == row["source"]]
        return rows

    def shard_rows(self, limit: int = 10) -> list[Row]:
        """Shards with most failures: source, shard, rows, stored, failed, commonest, commonest_rows."""
        return self._rows(
            _failures("source, shard", "outcomes")
            + " HAVING failed > 0 ORDER BY failed DESC, rows, source, shard LIMIT ?",
            [limit],
        )

    def host_rows(self, limit: int = 10) -> list[Row]:
        """Hosts by failures, then rows: host, rows, stored, failed, commonest, commonest_rows.

        Hosts are counted once, in the first call.
        """
        self._sql.execute(
            "CREATE TABLE IF NOT EXISTS hosts AS "
            "SELECT lower(regexp_extract(url, $host, 1)) AS host, status, count(*) AS n "
            "FROM corpus GROUP BY ALL",
            {"host": _HOST},
        )
        return self._rows(
            _failures("host", "hosts") + " HAVING host <> '' ORDER BY failed DESC, rows DESC, host LIMIT ?",
            [limit],
        )

    def settings(self) -> list[Row]:
        """The different settings of the candidates: captioner, filter, threshold and sampling.

        Web texts have no captioner. They are left out unless the round has no captions at all.
        """
        return self._rows(
            'SELECT DISTINCT captioner, "filter", threshold, top_p, top_k, repetition_penalty '
            "FROM candidates WHERE captioner IS NOT NULL OR (SELECT count(captioner) FROM candidates) = 0 "
            "ORDER BY ALL"
        )

    def drift(self) -> dict[str, TextDrift | None]:
        """Diversity of the texts by origin.

        It is computed over the first text of each image, and over the same images in every round.
        """
        found: dict[str, TextDrift | None] = {}
        for (origin,) in self._sql.execute(
            "SELECT DISTINCT origin FROM score_counts ORDER BY ALL DESC"
        ).fetchall():
            texts = self._sql.execute(
                "SELECT text FROM sampled_candidates "
                "WHERE origin = ? AND caption_index = 0 AND text IS NOT NULL "
                "ORDER BY md5(concat_ws('/', source, key)), source, key LIMIT ?",
                [origin, MAX_DRIFT_TEXTS],
            ).fetchall()
            found[origin] = compute_text_drift([text for (text,) in texts])
        return found

    def examples(self, per_section: int) -> list[Example]:
        """Example images in the sections of `examples.select_examples`, from the sampled candidates."""
        return select_examples(self._sql, per_section)

    def _rows(self, query: str, parameters: Sequence[Any] = ()) -> list[Row]:
        rows: list[Row] = self._sql.execute(query, list(parameters)).to_arrow_table().to_pylist()
        return rows


def noise_ratio_by_source(rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """{source: {origin: noise ratio}} from rows of `RoundTables.noise_rows`."""
    found: dict[str, dict[str, float | None]] = {}
    for row in rows:
        found.setdefault(row["source"], {})[row["origin"]] = row["noise_ratio"]
    return found


def _sample_evenly(files: Sequence[str], limit: int) -> list[str]:
    """At most `limit` files, evenly spaced in sorted order: the same shards in every round."""
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
    """Query for counts of rows and failures by these columns, from a table with the columns status and n."""
    failed = "status <> 'success'"
    # Ties are resolved by name: "dns" before "timeout".
    most_common = f"ORDER BY n DESC, status) FILTER ({failed})"
    return f"""
    SELECT {columns}, sum(n)::BIGINT AS rows, coalesce(sum(n) FILTER (NOT {failed}), 0)::BIGINT AS stored,
        coalesce(sum(n) FILTER ({failed}), 0)::BIGINT AS failed,
        first(status {most_common} AS commonest, first(n {most_common} AS commonest_rows
    FROM (SELECT {columns}, status, sum(n)::BIGINT AS n FROM {table} GROUP BY ALL) GROUP BY {columns}"""
