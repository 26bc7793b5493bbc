"""A database of one round: its candidates, and the corpus that they belong to, as SQL tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from capfilt.pipeline.evaluation.filter_quality import MATCHING
from capfilt.stages.rows import CORPUS_SCHEMA
from capfilt.stages.storage.sql import open_database, open_parquet
from capfilt.stages.verdicts.sets import VERDICTS_SCHEMA

SCORE_BINS = 1000
"""Bins of a score in [0, 1]; thresholds can be compared in steps of 0.001."""
SAMPLED_FILES = 100
"""Candidate files that examples and texts are sampled from: evenly spaced, the same in every round."""
IS_NOISE = f"truth NOT IN {MATCHING!r}"
"""SQL: whether a text is noise; NULL without known truth."""

_WITH_SET = """SELECT c.* REPLACE (v.kept AS kept, NULL::FLOAT AS threshold) FROM {} c LEFT JOIN verdicts v
    ON (c.source, c.key, c.origin, c.caption_index) = (v.source, v.key, v.origin, v.caption_index)
        AND c.captioner IS NOT DISTINCT FROM v.captioner"""
"""SQL: candidates with the verdicts of a set. Its policy need not be one threshold."""


def open_round(
    candidate_files: Sequence[str],
    corpus_files: Sequence[str],
    storage_options: Mapping[str, Any] | None,
    verdict_files: Sequence[str],
    candidate_schema: pa.Schema,
) -> duckdb.DuckDBPyConnection:
    """Open the files of a round and count its candidates; the arguments are those of `tables.RoundTables`.

    Returns:
        A database with `candidates` and `judged` (candidates with their truth), `sampled_candidates` and
        `sampled_judged` (those of some files), `corpus`, `outcomes` (rows by status) and `score_counts`
        (candidates by verdict and score).
    """
    sql = open_database()
    sql.register("corpus", open_parquet(corpus_files, CORPUS_SCHEMA, storage_options))
    sql.register("verdicts", open_parquet(verdict_files, VERDICTS_SCHEMA, storage_options))
    sampled = _sample_evenly(candidate_files, SAMPLED_FILES)
    for name, files in (("candidates", candidate_files), ("sampled_candidates", sampled)):
        sql.register(f"run_{name}", open_parquet(files, candidate_schema, storage_options))
        query = _WITH_SET if verdict_files else "SELECT * FROM {}"
        sql.execute(f"CREATE VIEW {name} AS {query.format(f'run_{name}')}")
    sql.execute(
        "CREATE TABLE outcomes AS SELECT source, shard, status, count(*) AS n FROM corpus GROUP BY ALL"
    )
    sql.execute(
        "CREATE TABLE truths AS SELECT source, key, any_value(truth) AS truth FROM corpus "
        "WHERE truth IS NOT NULL GROUP BY ALL"
    )
    for view, table in (("judged", "candidates"), ("sampled_judged", "sampled_candidates")):
        # The truth is that of the text that came with the image; captions have none.
        sql.execute(
            f"CREATE VIEW {view} AS SELECT c.*, CASE WHEN c.origin = 'web' THEN t.truth END AS truth "
            f"FROM {table} c LEFT JOIN truths t USING (source, key)"
        )
    sql.execute(
        "CREATE TABLE score_counts AS SELECT source, origin, captioner, truth, kept, "
        f"least(floor(itm_prob * {SCORE_BINS}), {SCORE_BINS - 1})::INT AS bin, count(*) AS n "
        "FROM judged GROUP BY ALL"
    )
    return sql


def _sample_evenly(files: Sequence[str], limit: int) -> list[str]:
    """At most `limit` files, evenly spaced in sorted order: the same shards in every round."""
    files = sorted(files)
    return [files[i * len(files) // limit] for i in range(limit)] if len(files) > limit else files
