"""Selection of the example images for the report page."""

from __future__ import annotations

from dataclasses import dataclass, field

import duckdb

from capfilt.pipeline.evaluation.filter_quality import MATCHING


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
    distance: float | None = None
    """From the ITM probability to the threshold."""


@dataclass(frozen=True)
class Example:
    """An image with all its texts; see `select_examples` for the sections."""

    section: str
    source: str
    key: str
    width: int | None
    height: int | None
    url: str | None
    candidates: list[Candidate] = field(default_factory=list)


def select_examples(sql: duckdb.DuckDBPyConnection, per_section: int) -> list[Example]:
    """Example images in sections; the same files give the same examples.

    Sections:
        "<web verdict>/<synthetic verdict>": sampled by a hash of the key. A verdict is "kept" when any
            text of that origin is kept, "dropped" when all judged ones are dropped, "none" when none was
            judged.
        "false alarm": dropped clean texts with the lowest ITM probability.
        "miss": kept noise with the highest ITM probability.
        "close call": images with the text that is closest to the threshold; none where the verdicts are not
            those of one threshold.
        "flag: <name>": images with a text that has this flag, sampled by a hash of the key.

    Args:
        sql: database with the tables `sampled_candidates` and `sampled_judged` of `tables.RoundTables`.
        per_section: images per section, at most.
    """
    sql.execute(_SELECTION, {"n": per_section, "matching": list(MATCHING)})
    rows = sql.execute(
        "SELECT p.section, p.source, p.key, j.width, j.height, j.url, j.origin, j.text, j.itm_prob, "
        "j.itc_sim, j.kept, j.flags, j.truth, abs(j.itm_prob - j.threshold) "
        "FROM selected p JOIN sampled_judged j USING (source, key) "
        "ORDER BY p.section, p.place, j.origin DESC, j.caption_index"
    ).fetchall()
    found: dict[tuple[str, str, str], Example] = {}
    for section, source, key, width, height, url, *candidate in rows:
        example = Example(section, source, key, width, height, url)
        example = found.setdefault((section, source, key), example)
        origin, text, itm_prob, itc_sim, kept, flags, truth, distance = candidate
        example.candidates.append(
            Candidate(origin, text or "", itm_prob, itc_sim, kept, tuple(flags or ()), truth, distance)
        )
    return list(found.values())


_SELECTION = """
CREATE OR REPLACE TABLE selected AS
WITH images AS (
    SELECT source, key, md5(concat_ws('/', source, key)) AS hash,
        CASE bool_or(kept) FILTER (origin = 'web')
            WHEN true THEN 'kept' WHEN false THEN 'dropped' ELSE 'none' END AS web,
        CASE bool_or(kept) FILTER (origin = 'synthetic')
            WHEN true THEN 'kept' WHEN false THEN 'dropped' ELSE 'none' END AS synthetic
    FROM sampled_candidates GROUP BY ALL
), texts AS (
    SELECT source, key, md5(concat_ws('/', source, key)) AS hash, itm_prob, truth, kept,
        abs(itm_prob - threshold) AS distance
    FROM sampled_judged WHERE kept IS NOT NULL
), flagged AS (
    SELECT DISTINCT unnest(flags) AS flag, source, key, md5(concat_ws('/', source, key)) AS hash
    FROM sampled_candidates
), ranked AS (
    SELECT web || '/' || synthetic AS section, source, key,
        row_number() OVER (PARTITION BY web, synthetic ORDER BY hash, source, key) AS place
    FROM images WHERE web <> 'none' OR synthetic <> 'none'
    UNION ALL SELECT 'false alarm', source, key, row_number() OVER (ORDER BY itm_prob, hash)
    FROM texts WHERE truth IN $matching AND NOT kept
    UNION ALL SELECT 'miss', source, key, row_number() OVER (ORDER BY itm_prob DESC, hash)
    FROM texts WHERE truth NOT IN $matching AND kept
    UNION ALL SELECT 'close call', source, key, row_number() OVER (ORDER BY min(distance), any_value(hash))
    FROM texts WHERE distance IS NOT NULL GROUP BY source, key
    UNION ALL SELECT 'flag: ' || flag, source, key, row_number() OVER (PARTITION BY flag ORDER BY hash)
    FROM flagged
)
SELECT section, source, key, min(place) AS place FROM ranked WHERE place <= $n GROUP BY ALL
"""
