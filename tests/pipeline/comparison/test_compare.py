"""A comparison against DuckDB over the Parquet files of both runs."""

from typing import Any

import duckdb
import pytest

from capfilt.pipeline.comparison.compare import OWN_CAPTIONER, compare_runs
from capfilt.pipeline.comparison.figures import Figure, Ratio, pair_ratios
from capfilt.pipeline.comparison.run import open_compared
from capfilt.pipeline.comparison.settings import Setting, compare_settings
from capfilt.pipeline.evaluation.intervals import difference_interval
from tests.pipeline.comparison.compared_runs import TwoRuns


def query(runs: TwoRuns, sql: str) -> list[tuple[Any, ...]]:
    """SQL over `a` and `b`, the candidates of the runs, and `same`, the images that are in both."""
    files = {
        name: f"read_parquet('{place}/rounds/1/**/*.parquet')"
        for name, place in zip("ab", runs.places, strict=True)
    }
    same = (
        "SELECT DISTINCT source, key FROM (SELECT source, key, sha256 FROM a INTERSECT "
        "SELECT source, key, sha256 FROM b)"
    )
    views = f"WITH a AS (FROM {files['a']}), b AS (FROM {files['b']}), same AS ({same})"
    return duckdb.sql(f"{views} {sql}").fetchall()


def ratio_of(row: Any) -> tuple[int, int]:
    return (row["judged"], row["dropped"])


def test_images(runs: TwoRuns) -> None:
    images = runs.compare().images
    (expected,) = query(
        runs,
        "SELECT (SELECT count(DISTINCT (source, key)) FROM a), "
        "(SELECT count(DISTINCT (source, key)) FROM b), (SELECT count(*) FROM same)",
    )
    assert (images.a, images.b, images.shared) == expected
    (differing,) = query(
        runs,
        "SELECT count(DISTINCT (a.source, a.key)) FROM a JOIN b USING (source, key) "
        "WHERE a.sha256 <> b.sha256",
    )
    assert images.differing == differing[0] == images.a - images.shared > 0


@pytest.mark.parametrize("columns", [("source", "origin"), ("source", "captioner")])
def test_noise_ratios(runs: TwoRuns, columns: tuple[str, str]) -> None:
    found = runs.compare()
    ratios = found.ratios if columns[1] == "origin" else found.captioners
    for letter in "ab":
        rows = query(
            runs,
            f"SELECT {', '.join(columns)}, count(kept), count(*) FILTER (NOT kept) FROM {letter} "
            f"WHERE {columns[1]} IS NOT NULL GROUP BY ALL",
        )
        expected = {row[:2]: row[2:] for row in rows}
        assert {ratio.label: ratio_of(getattr(ratio, letter)) for ratio in ratios} == expected
    for ratio in ratios:
        assert ratio.a and ratio.b and ratio.difference is not None
        assert ratio.difference == pytest.approx(ratio.b["noise_ratio"] - ratio.a["noise_ratio"])
        of_a, of_b = ((row["dropped"], row["judged"]) for row in (ratio.a, ratio.b))
        assert ratio.interval == difference_interval(of_a, of_b)


def test_noise_ratios_on_the_shared_images_count_different_texts(runs: TwoRuns) -> None:
    for ratio in runs.compare().shared:
        for letter in "ab":
            expected = query(
                runs,
                f"""SELECT count(kept), count(*) FILTER (NOT kept) FROM
                (SELECT bool_or(kept) AS kept FROM {letter} SEMI JOIN same USING (source, key)
                 WHERE origin = '{ratio.label[0]}' GROUP BY source, key, text)""",
            )
            assert [ratio_of(getattr(ratio, letter))] == expected


def test_groups(runs: TwoRuns) -> None:
    groups = runs.compare("captioner", "length").groups
    assert list(groups) == ["captioner", "length"]
    for letter in "ab":
        rows = query(
            runs,
            f"SELECT coalesce(captioner, '–'), origin, count(kept), count(*) FILTER (NOT kept) "
            f"FROM {letter} GROUP BY ALL",
        )
        found = {ratio.label: ratio_of(getattr(ratio, letter)) for ratio in groups["captioner"]}
        assert found == {row[:2]: row[2:] for row in rows}


def test_verdicts_on_the_same_texts(runs: TwoRuns) -> None:
    rows = query(
        runs,
        """SELECT origin, count(*), count(*) FILTER (x.kept AND y.kept),
            count(*) FILTER (x.kept AND NOT y.kept), count(*) FILTER (NOT x.kept AND y.kept),
            count(*) FILTER (NOT x.kept AND NOT y.kept)
        FROM (SELECT source, key, origin, text, bool_or(kept) AS kept FROM a GROUP BY ALL) x
        JOIN (SELECT source, key, origin, text, bool_or(kept) AS kept FROM b GROUP BY ALL) y
            USING (source, key, origin, text)
        SEMI JOIN same USING (source, key)
        WHERE x.kept IS NOT NULL AND y.kept IS NOT NULL GROUP BY origin ORDER BY origin DESC""",
    )
    found = runs.compare().agreements
    assert [(r.origin, r.texts, r.kept, r.only_a, r.only_b, r.dropped) for r in found] == rows
    assert all(min(row[2:]) > 0 for row in rows), "all four cases occur"
    assert [r.share for r in found] == [pytest.approx((row[2] + row[5]) / row[1]) for row in rows]


def test_disagreements_are_those_with_the_largest_difference_in_score(runs: TwoRuns) -> None:
    found = runs.compare().disagreements
    for origin in ("web", "synthetic"):
        for letter, wanted in (("A", "a.kept AND NOT b.kept"), ("B", "b.kept AND NOT a.kept")):
            expected = query(
                runs,
                f"""SELECT abs(a.itm_prob - b.itm_prob) AS d
                FROM a JOIN b USING (source, key, origin, text) SEMI JOIN same USING (source, key)
                WHERE origin = '{origin}' AND {wanted} ORDER BY d DESC LIMIT 12""",
            )
            shown = [each for each in found if (each.origin, each.kept_by) == (origin, letter)]
            assert [abs(each.a - each.b) for each in shown] == [pytest.approx(d) for (d,) in expected]


def test_kept_pairs_and_other_figures(runs: TwoRuns) -> None:
    found = runs.compare()
    figures = {each.label: each for each in [*found.corpora, *found.texts]}
    for letter in "ab":
        ((kept, images),) = query(
            runs,
            f"SELECT count(*), count(DISTINCT coalesce(sha256, source || key)) FROM {letter} WHERE kept",
        )
        assert getattr(figures["kept pairs of image and text"], letter) == kept
        assert getattr(figures["different images with a kept text"], letter) == images
        ((words,),) = query(
            runs,
            f"SELECT avg(len(regexp_extract_all(text, '\\w+'))) FROM {letter} "
            f"WHERE origin = 'synthetic' AND caption_index = 0",
        )
        assert getattr(figures["synthetic: words per text"], letter) == pytest.approx(words)
    assert found.filters == [], "no truth is known"


def test_settings_that_differ(runs: TwoRuns) -> None:
    found = runs.compare().settings
    assert Setting("filter.judge.threshold", "0.5", "0.25") in found
    others = [each for each in found if each.key != "filter.judge.threshold"]
    assert all(each.a.replace("/one/", "/two/") == each.b for each in others), "places of the data"


def test_settings_of_a_section_that_one_run_lacks() -> None:
    a = {"run": {"dir": "x", "name": "n", "seed": 1}, "export": None, "list": [1], "text": "same"}
    b = {"run": {"dir": "y", "name": "m", "seed": 1}, "export": {"to": "hf"}, "list": [1, 2], "text": "same"}
    assert compare_settings(a, b | {"more": "x" * 100}) == [
        Setting("export", "null", '{"to": "hf"}'),
        Setting("list", "[1]", "[1, 2]"),
        Setting("more", "–", "x" * 79 + "…"),
    ]


def test_what_only_one_run_has_stays() -> None:
    row = {"judged": 2, "dropped": 1, "noise_ratio": 0.5}
    found = pair_ratios([row | {"x": "old"}], [row | {"x": None}], ["x"])
    assert [(each.label, each.a is None, each.b is None) for each in found] == [
        (("old",), False, True),
        (("–",), True, False),
    ]
    assert all(each.difference is None and each.interval is None for each in found)
    assert Ratio(("x",), row, row | {"noise_ratio": None}).difference is None
    assert Figure("x", "count", None, 1).difference is None and Figure("x", "count", 3, 1).difference == -2


def test_the_only_own_captioner_of_each_run_is_compared_with_that_of_the_other(runs: TwoRuns) -> None:
    a, b = open_compared("A", runs.a, 1), open_compared("B", runs.b, 1)
    rows = {"A": "0123456789abcdef", "B": "fedcba9876543210"}
    for run in (a, b):
        made = [{"source": "web", "captioner": name, "judged": 4, "dropped": 1, "noise_ratio": 0.25}
                for name in (rows[run.letter], "elsewhere")]  # fmt: skip
        object.__setattr__(run.tables, "captioner_rows", lambda always, made=made: made)
    labels = [ratio.label for ratio in compare_runs(a, b).captioners]
    assert labels == [("web", OWN_CAPTIONER), ("web", "elsewhere")]
