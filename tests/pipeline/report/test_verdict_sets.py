"""`capfilt report --verdicts`: every figure is that of a query over the files of the set."""

import duckdb
import pytest
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.nodes.report import write_report
from capfilt.stages.storage.layout import metrics_file
from capfilt.stages.verdicts.sets import VerdictSetError
from tests.judged_run import JudgedRun, make


@pytest.fixture
def run(tmp_path):
    run = JudgedRun(tmp_path / "run").create()
    make(run, "strict", keep=("web: itm >= 0.8", "synthetic: top 20% by itc"))
    return run


def noise(run, columns):
    """Rows of (columns, dropped / judged) of the set, from its Parquet files alone."""
    files = f"read_parquet({run.files('verdicts/strict/1')})"
    query = f"SELECT {columns}, avg((NOT kept)::INT) FROM {files} GROUP BY ALL ORDER BY ALL"
    return duckdb.sql(query).fetchall()


def test_figures_are_those_of_the_set(run):
    own = write_report(run.run_dir, 1)
    metrics = write_report(run.run_dir, 1, "strict")
    assert metrics.verdicts == "strict" and own.verdicts == "default"
    assert metrics.noise_ratio == pytest.approx(dict(noise(run, "origin")))
    by_source = {(s, o): n for s, of in metrics.noise_ratio_by_source.items() for o, n in of.items()}
    assert by_source == pytest.approx({(s, o): n for s, o, n in noise(run, "source, origin")})
    (pairs,) = duckdb.sql(
        f"SELECT count(*) FROM read_parquet({run.files('verdicts/strict/1')}) WHERE kept"
    ).fetchone()
    assert metrics.funnel.kept_pairs == pairs
    table = run.files("reports/1/verdicts/strict")[1]
    tables = duckdb.sql(f"SELECT origin, sum(kept)::INT FROM '{table}' GROUP BY 1").fetchall()
    files = f"read_parquet({run.files('verdicts/strict/1')})"
    kept = duckdb.sql(f"SELECT origin, count(*) FROM {files} WHERE kept GROUP BY 1").fetchall()
    assert table.endswith("noise.parquet") and sorted(tables) == sorted(kept)


def test_page_says_which_set_it_shows_and_the_report_of_the_run_stays(run):
    write_report(run.run_dir, 1)
    before = run.store.read("reports/1/noise.parquet")
    write_report(run.run_dir, 1, "strict")
    page = run.store.read("reports/1/verdicts/strict/report.html").decode()
    assert "Verdicts of the set <b>strict</b>, not of the run: keep web: itm &gt;= 0.8;" in page
    assert "kept when the ITM probability" not in page and "Close to the threshold" not in page
    assert run.store.read("reports/1/noise.parquet") == before
    own = run.store.read("reports/1/report.html").decode()
    assert "Verdicts of the set" not in own and "--keep &#39;itm &gt;= 0.7&#39;" in own


def test_stale_set_is_refused(run):
    run.write("a", 1, seed=99)
    with pytest.raises(VerdictSetError, match="make it again with capfilt rejudge"):
        write_report(run.run_dir, 1, "strict")


def test_command_reports_by_a_set(run):
    place = run.config.run.dir
    result = CliRunner().invoke(app, ["report", place, "--verdicts", "strict"])
    assert result.exit_code == 0, result.output
    assert f"{place}/{metrics_file(1, 'strict')}" in result.stdout
    assert f"{place}/verdicts/strict/1/**/*.parquet" in result.stdout.splitlines()[-1]
    missing = CliRunner().invoke(app, ["report", place, "--verdicts", "no"])
    assert missing.exit_code == 2 and "has no verdict set no; it has default, strict" in missing.stderr
