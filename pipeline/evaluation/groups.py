"""Verdicts by a property of the candidates: what `capfilt report --by` shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from capfilt.pipeline.evaluation.intervals import wilson_interval
from capfilt.stages.errors import UserError

LENGTHS = (0, 1, 3, 6, 11, 21)
"""First numbers of words of the classes of `length`."""
SIZES = (0, 64, 128, 256, 512, 1024)
"""First lengths of the shorter side, pixels, of the classes of `size`."""
COMPUTED = ("host", "length", "size")
"""Properties that are no columns."""
NO_FLAG = "(none)"
"""The value of a candidate whose list is empty."""
MOST_VALUES = 10_000
"""Values of a property that are reported: those with most judged candidates."""


class GroupError(UserError):
    """A property by which verdicts cannot be grouped; the message says which can."""


def check_properties(names: Sequence[str], schema: pa.Schema) -> None:
    """Check that the candidates have these properties.

    Args:
        names: of `--by`.
        schema: columns of the candidates.

    Raises:
        GroupError: they lack one, or the list is empty.
    """
    known = [*COMPUTED, *schema.names]
    for name in names or [""]:
        if name not in known:
            hint = "; filter.judge.language makes it in the next run" if name == "language" else ""
            raise GroupError(
                f"--by {name}: the candidates have no such column{hint}; allowed: {', '.join(known)}"
            )


def group_verdicts(
    sql: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, host: str
) -> list[dict[str, Any]]:
    """Verdicts by a property and by origin.

    Args:
        sql: database with the table `candidates`.
        name: a column, or `host` (of the url), `length` (words of the text, in classes) or `size` (shorter
            side of the image, in classes). A column of decimal numbers is rounded to one decimal; of a list,
            every element counts.
        schema: columns of the candidates.
        host: pattern whose group is the host of a url.

    Returns:
        Rows with by, value, origin, judged, kept, dropped, noise_ratio, noise_low and noise_high: classes in
        their order, else values with most judged candidates first.
    """
    value, place = _expressions(name, schema, host)
    rows = sql.execute(
        f"""
        WITH valued AS (SELECT {value} AS value, {place} AS place, origin, kept FROM candidates),
        counted AS (
            SELECT value::VARCHAR AS value, min(place) AS place, origin, count(kept) AS judged,
                count(*) FILTER (kept) AS kept, count(*) FILTER (NOT kept) AS dropped
            FROM valued GROUP BY value, origin
        ),
        totals AS (SELECT *, sum(judged) OVER (PARTITION BY value) AS total FROM counted),
        ranked AS (SELECT *, dense_rank() OVER (ORDER BY place, total DESC, value) AS number FROM totals)
        SELECT value, origin, judged, kept, dropped FROM ranked WHERE number <= {MOST_VALUES}
        ORDER BY number, origin DESC
        """
    ).fetchall()
    return [_row(name, *row) for row in rows]


def _row(name: str, value: str | None, origin: str, judged: int, kept: int, dropped: int) -> dict[str, Any]:
    low, high = wilson_interval(dropped, judged) or (None, None)
    return {
        "by": name,
        "value": value,
        "origin": origin,
        "judged": judged,
        "kept": kept,
        "dropped": dropped,
        "noise_ratio": dropped / judged if judged else None,
        "noise_low": low,
        "noise_high": high,
    }


def _expressions(name: str, schema: pa.Schema, host: str) -> tuple[str, str]:
    """SQL of the value of a property, and of its place where its classes have an order."""
    if name in schema.names:
        column, type_ = '"' + name.replace('"', '""') + '"', schema.field(name).type
        if pa.types.is_list(type_) or pa.types.is_large_list(type_):
            return f"unnest(CASE WHEN len({column}) > 0 THEN {column} ELSE ['{NO_FLAG}'] END)", "0"
        return (f"round({column}, 1)" if pa.types.is_floating(type_) else column), "0"
    if name == "host":
        pattern = host.replace("'", "''")
        return f"nullif(lower(regexp_extract(url, '{pattern}', 1)), '')", "0"
    if name == "length":
        return _classes("len(regexp_extract_all(coalesce(text, ''), '\\S+'))", LENGTHS)
    return _classes("least(width, height)", SIZES)


def _classes(number: str, firsts: Sequence[int]) -> tuple[str, str]:
    """SQL of the class of a number as text ("3 to 5"), and of the first number of that class."""
    lasts = [first - 1 for first in firsts[1:]]
    labels = [str(a) if a == b else f"{a} to {b}" for a, b in zip(firsts, lasts, strict=False)]
    labels.append(f"{firsts[-1]} and more")
    whens = [f"WHEN {number} >= {first}" for first in reversed(firsts)]
    value = " ".join(f"{w} THEN '{label}'" for w, label in zip(whens, reversed(labels), strict=True))
    place = " ".join(f"{w} THEN {first}" for w, first in zip(whens, reversed(firsts), strict=True))
    return f"CASE {value} END", f"CASE {place} END"
