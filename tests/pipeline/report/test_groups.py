"""`capfilt report --by`: every figure is that of an independent query over the candidates."""

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.evaluation.groups import LENGTHS, SIZES, GroupError, _classes
from capfilt.pipeline.evaluation.intervals import wilson_interval
from capfilt.pipeline.nodes.report import write_report
from tests.judged_run import JudgedRun, make

# property -> SQL of its value over the candidates, written for this test
VALUES = {
    "source": "source",
    "captioner": "captioner",
    "host": "split_part(split_part(url, '//', 2), '/', 1)",
    "length": """CASE WHEN words = 0 THEN '0' WHEN words <= 2 THEN '1 to 2' WHEN words <= 5 THEN '3 to 5'
        WHEN words <= 10 THEN '6 to 10' WHEN words <= 20 THEN '11 to 20' ELSE '21 and more' END""",
    "flags": "CASE WHEN len(flags) = 0 THEN '(none)' ELSE flags[1] END",
    "similarity": "round(similarity, 1)::VARCHAR",
    "caption_index": "caption_index::VARCHAR",
    "size": "NULL",
}


@pytest.fixture
def run(tmp_path):
    return JudgedRun(tmp_path / "run", {"similarity": pa.float32()}).create()


def counted(run, value):
    """{(value, origin): (judged, kept, dropped)} of the candidates."""
    files = f"read_parquet({run.files()}, union_by_name = true)"
    words = "len(list_filter(string_split(text, ' '), lambda w: w <> '')) AS words"
    counts = "count(kept), coalesce(sum(kept::INT), 0), coalesce(sum((NOT kept)::INT), 0)"
    rows = duckdb.sql(
        f"SELECT {value}, origin, {counts} FROM (SELECT *, {words} FROM {files}) GROUP BY ALL"
    ).fetchall()
    return {(value, origin): tuple(numbers) for value, origin, *numbers in rows}


def test_figures_are_those_of_a_query(run):
    write_report(run.run_dir, 1, by=list(VALUES))
    rows = pq.read_table(f"{run.config.run.dir}/reports/1/groups.parquet").to_pylist()
    assert list(dict.fromkeys(row["by"] for row in rows)) == list(VALUES)
    for name, value in VALUES.items():
        own = [row for row in rows if row["by"] == name]
        found = {(row["value"], row["origin"]): (row["judged"], row["kept"], row["dropped"]) for row in own}
        assert found == counted(run, value), name
        for row in own:
            interval = wilson_interval(row["dropped"], row["judged"]) or (None, None)
            assert (row["noise_low"], row["noise_high"]) == interval
            if row["judged"]:
                assert row["noise_ratio"] == row["dropped"] / row["judged"]
    page = run.store.read("reports/1/report.html").decode()
    assert all(f"Verdicts by {name}" in page for name in VALUES)


def test_report_without_properties_has_no_groups(run):
    write_report(run.run_dir, 1)
    assert not run.store.exists("reports/1/groups.parquet")
    assert "Verdicts by" not in run.store.read("reports/1/report.html").decode()


def test_groups_of_a_named_set_have_its_verdicts(run):
    make(run, "strict", keep=("itm >= 0.8",))
    write_report(run.run_dir, 1, "strict", ["origin"])
    rows = pq.read_table(f"{run.config.run.dir}/reports/1/verdicts/strict/groups.parquet").to_pylist()
    files = f"read_parquet({run.files('verdicts/strict/1')})"
    kept = duckdb.sql(f"SELECT origin, sum(kept::INT) FROM {files} GROUP BY 1").fetchall()
    assert {row["origin"]: row["kept"] for row in rows} == dict(kept)


@pytest.mark.parametrize(("firsts", "name"), [(LENGTHS, "length"), (SIZES, "size")])
def test_classes_have_their_limits_inside(firsts, name):
    value, place = _classes("n", firsts)
    for first, after in zip(firsts, [*firsts[1:], None], strict=True):
        last = None if after is None else after - 1
        label = f"{first} and more" if last is None else str(first) if first == last else f"{first} to {last}"
        for number in (first, first + 1 if last is None else last):
            found = duckdb.sql(f"SELECT {value}, {place} FROM (SELECT {number} AS n)").fetchone()
            assert found == (label, first), name


def test_unknown_property_is_refused_and_nothing_is_written(run):
    with pytest.raises(
        GroupError, match="--by nope: the candidates have no such column; allowed: host, length"
    ):
        write_report(run.run_dir, 1, by=["source", "nope"])
    assert not run.store.exists("reports/1")


def test_command_prints_a_table_for_each_property(run):
    result = CliRunner().invoke(app, ["report", run.config.run.dir, "--by", "source, similarity"])
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    judged, _, dropped = counted(run, "source")["a", "web"]
    assert "source origin judged dropped noise ratio 95 % interval" in lines
    assert any(line.startswith(f"a web {judged} {dropped} {dropped / judged:.4f} ") for line in lines)
    assert any(line.startswith("– web ") for line in lines)  # a source without the column
    assert CliRunner().invoke(app, ["report", run.config.run.dir, "--by", "x"]).exit_code == 2
