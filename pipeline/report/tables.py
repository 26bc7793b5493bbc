"""SQL over the Parquet files of one round: verdicts, failures, scores, and examples.

The files are given as explicit lists, because the commit records decide which files count.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa

from capfilt.pipeline.evaluation.drift import TextDrift, compute_text_drift
from capfilt.pipeline.evaluation.filter_quality import FilterQuality, compute_filter_quality
from capfilt.pipeline.evaluation.groups import group_verdicts
from capfilt.pipeline.evaluation.intervals import add_intervals
from capfilt.pipeline.report.database import IS_NOISE, open_round
from capfilt.pipeline.report.formats.addresses import HOST
from capfilt.pipeline.report.gallery.examples import Example, select_examples
from capfilt.pipeline.report.metrics_file import Funnel
from capfilt.stages.rows import CANDIDATE_SCHEMA

MAX_DRIFT_TEXTS = 20_000
"""Texts per origin over which drift is computed."""

DIGEST = re.compile(r"[0-9a-f]{16}")
"""The digest of a captioner that is a model of the run; captioners from elsewhere have names."""

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
        verdict_files: Sequence[str] = (),
        candidate_schema: pa.Schema = CANDIDATE_SCHEMA,
    ) -> None:
        """Open the files and count.

        Args:
            candidate_files: committed Parquet files of `stages.rows.CANDIDATE_SCHEMA`.
            corpus_files: committed Parquet files of `stages.rows.CORPUS_SCHEMA`.
            storage_options: fsspec options of the filesystem that holds the files.
            verdict_files: Parquet files of a set of verdicts, in place of those of the run.
            candidate_schema: columns of the candidates.
        """
        self._schema = candidate_schema
        self._sql = open_round(
            candidate_files, corpus_files, storage_options, verdict_files, candidate_schema
        )

    def close(self) -> None:
        """End the database and its threads. Those left when Python ends would wait for its lock in vain, and
        abort the process."""
        self._sql.close()

    def noise_rows(self) -> list[Row]:
        """By source and origin: candidates, judged, kept, dropped, noise_ratio, noise_low, noise_high and
        planted.

        noise_ratio is dropped / judged, between the limits of its Wilson interval; planted is the share of
        noise among the judged candidates with known truth. All are None for 0 / 0. A candidate without a
        verdict was not judged.
        """
        query = f"SELECT source, origin, {_RATIOS} FROM score_counts GROUP BY ALL "
        return add_intervals(self._rows(query + "ORDER BY source, origin DESC"))

    def origin_rows(self) -> list[Row]:
        """The columns of `noise_rows` except source, by origin; web before synthetic."""
        query = f"SELECT origin, {_RATIOS} FROM score_counts GROUP BY ALL ORDER BY origin DESC"
        return add_intervals(self._rows(query))

    def captioner_rows(self, *, always: bool = False) -> list[Row]:
        """As `noise_rows`, by captioner instead of origin; [] with no captioner but the run's own, unless
        `always`."""
        query = f"SELECT source, captioner, {_RATIOS} FROM score_counts WHERE captioner IS NOT NULL "
        rows = add_intervals(self._rows(query + "GROUP BY ALL ORDER BY source, captioner"))
        captioners = {row["captioner"] for row in rows}
        is_own = len(captioners) < 2 and all(map(DIGEST.fullmatch, captioners))
        return [] if is_own and not always else rows

    def funnel(self, sources: Sequence[str]) -> Funnel:
        """What is left of the rows of these sources after each step.

        Images are the same if their bytes are. An image whose bytes are unknown differs from all others.
        """
        self._sql.execute(
            "CREATE OR REPLACE MACRO image_id(sha256, source, key) AS "
            "md5_number(coalesce(sha256, concat_ws('/', source, key)))"
        )
        chosen = [list(sources)]
        (rows,) = self._rows(
            "SELECT count(*) AS rows, count(*) FILTER (status = 'success') AS stored FROM corpus "
            "WHERE list_contains(?, source)",
            chosen,
        )
        (different,) = self._rows(
            "SELECT count(*) AS different FROM (SELECT DISTINCT image_id(sha256, source, key) FROM corpus "
            "WHERE status = 'success' AND list_contains(?, source))",
            chosen,
        )
        (kept,) = self._rows(
            "SELECT count(*) AS kept_images, coalesce(sum(n), 0)::BIGINT AS kept_pairs FROM "
            "(SELECT image_id(sha256, source, key) AS image, count(*) AS n FROM candidates "
            "WHERE kept GROUP BY image)"
        )
        return Funnel(**rows, **different, **kept)

    def planted_rows(self) -> list[Row]:
        """By truth (column kind), texts that match first: judged, dropped and dropped_ratio."""
        return self._rows(
            "SELECT truth AS kind, sum(n)::BIGINT AS judged, "
            "coalesce(sum(n) FILTER (NOT kept), 0)::BIGINT AS dropped, dropped / judged AS dropped_ratio "
            "FROM score_counts WHERE truth IS NOT NULL AND kept IS NOT NULL GROUP BY truth "
            f"ORDER BY {IS_NOISE}, judged DESC, kind",
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
            f"SELECT origin, {IS_NOISE} AS noise, bin, sum(n)::BIGINT AS n FROM score_counts "
            "WHERE bin IS NOT NULL AND kept IS NOT NULL GROUP BY ALL ORDER BY ALL",
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

    def host_rows(self, limit: int = 10, *, by: Literal["failed", "rows"] = "failed") -> list[Row]:
        """Hosts by failures or by rows: host, rows, stored, failed, commonest, commonest_rows; and of the web
        texts of their images: judged, kept, dropped, noise_ratio, noise_low, noise_high.

        Hosts are counted once, in the first call.
        """
        host = "lower(regexp_extract(url, $host, 1)) AS host"
        for table, columns in (
            ("host_outcomes", f"{host}, status, count(*) AS n FROM corpus"),
            (
                "host_verdicts",
                f"{host}, kept, NULL::VARCHAR AS truth, count(*) AS n FROM candidates WHERE origin = 'web'",
            ),
        ):
            query = f"CREATE TABLE IF NOT EXISTS {table} AS SELECT {columns} GROUP BY ALL"
            self._sql.execute(query, {"host": HOST})
        return add_intervals(
            self._rows(
                f"SELECT f.*, v.* EXCLUDE (host, candidates, planted) FROM "
                f"({_failures('host', 'host_outcomes')}) f "
                f"LEFT JOIN (SELECT host, {_RATIOS} FROM host_verdicts GROUP BY host) v USING (host) "
                f"WHERE host <> '' ORDER BY {by} DESC, rows DESC, host LIMIT ?",
                [limit],
            )
        )

    def group_rows(self, name: str) -> list[Row]:
        """Verdicts by a property of the candidates; see `group_verdicts`."""
        return group_verdicts(self._sql, name, self._schema, HOST)

    def urls(self, images: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str | None]:
        """{(source, key): url} of these images."""
        rows = self._rows(
            "SELECT source, key, url FROM corpus SEMI JOIN "
            "(SELECT unnest($sources) AS source, unnest($keys) AS key) USING (source, key)",
            {"sources": [source for source, _ in images], "keys": [key for _, key in images]},
        )
        return {(row["source"], row["key"]): row["url"] for row in rows}

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

    def common_texts(self, limit: int = 10) -> dict[str, list[Row]]:
        """The most frequent texts by origin, web first: text, n, share; only texts that occur repeatedly.

        Texts with a word are counted in the sampled candidates.
        """
        rows = self._rows(
            "SELECT origin, text, count(*) AS n, n / sum(n) OVER (PARTITION BY origin) AS share "
            "FROM sampled_candidates WHERE regexp_matches(text, '\\S') GROUP BY origin, text "
            "QUALIFY n > 1 AND row_number() OVER (PARTITION BY origin ORDER BY n DESC, text) <= ? "
            "ORDER BY origin DESC, n DESC, text",
            [limit],
        )
        found: dict[str, list[Row]] = {}
        for row in rows:
            found.setdefault(row["origin"], []).append(row)
        return found

    def read_texts(self) -> pa.RecordBatchReader:
        """Every different text of an image once: source, key, origin, text, sha256 (of the image), kept
        (whether it was kept at least once; null if it was not judged) and itm_prob (the highest)."""
        return self._sql.execute(
            "SELECT source, key, origin, text, any_value(sha256) AS sha256, bool_or(kept) AS kept, "
            "max(itm_prob) AS itm_prob FROM candidates GROUP BY source, key, origin, text"
        ).to_arrow_reader()

    def examples(self, per_section: int) -> list[Example]:
        """Example images in the sections of `examples.select_examples`, from the sampled candidates."""
        return select_examples(self._sql, per_section)

    def _rows(self, query: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[Row]:
        rows: list[Row] = self._sql.execute(query, parameters).to_arrow_table().to_pylist()
        return rows


_RATIOS = f"""
    sum(n)::BIGINT AS candidates,
    coalesce(sum(n) FILTER (kept IS NOT NULL), 0)::BIGINT AS judged,
    coalesce(sum(n) FILTER (kept), 0)::BIGINT AS kept,
    coalesce(sum(n) FILTER (NOT kept), 0)::BIGINT AS dropped,
    dropped / nullif(judged, 0) AS noise_ratio,
    coalesce(sum(n) FILTER (kept IS NOT NULL AND {IS_NOISE}), 0)
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
