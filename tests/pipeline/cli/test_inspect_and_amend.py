"""`capfilt verify`, `report` and `retry`: their output and exit codes; tests/end_to_end has whole runs."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from capfilt.pipeline.cli import amend
from capfilt.pipeline.cli import inspect as inspect_module
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.console.signals import Interrupted
from capfilt.pipeline.maintenance.verify import Problem, Verification
from capfilt.pipeline.prepare import open_run
from capfilt.pipeline.report.metrics_file import RoundMetrics
from capfilt.pipeline.rundir.ledger import Ledger
from tests.tiny import tiny_data, write_config


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    write_config(folder / "config.yaml", tiny_data(tmp_path))

    @contextmanager
    def hold_run(config, notify):
        yield open_run(config)

    monkeypatch.setattr("capfilt.pipeline.prepare.hold_run", hold_run)
    return folder


def call(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def lines_of(result):
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def verification(problems, unfinished=0):
    return Verification(shards=1200, rows=34000, bytes=5_600_000, problems=problems, unfinished=unfinished)


COUNTS = "1,200 shards, 34,000 rows, 5.6 MB"


def test_verify_lists_differences_and_the_command_that_repairs(run_dir, monkeypatch):
    found = verification([Problem("corpus/web/000001", "[/x] is damaged", "fetch")], unfinished=2)
    monkeypatch.setattr("capfilt.pipeline.maintenance.verify.verify_run", lambda *_, **__: found)
    result = call("verify", run_dir, "--set", "run.name=a b")
    assert result.exit_code == 1
    assert lines_of(result) == [
        "differs corpus/web/000001: [/x] is damaged",
        f"{COUNTS}: 1 differences; 2 not finished",
        f"repair capfilt verify {run_dir} --repair --set 'run.name=a b'",
    ]


def test_verify_of_an_undamaged_run_exits_with_code_0(run_dir, monkeypatch):
    monkeypatch.setattr("capfilt.pipeline.maintenance.verify.verify_run", lambda *_, **__: verification([]))
    result = call("verify", run_dir)
    assert (result.exit_code, lines_of(result)) == (0, [f"{COUNTS}: 0 differences; 0 not finished"])


@pytest.mark.parametrize("words", [[], ["--repair"]])
def test_verify_reads_only_records_if_asked(run_dir, monkeypatch, words):
    asked = []

    def verify_run(opened, *, records_only):
        asked.append(records_only)
        return verification([])

    monkeypatch.setattr("capfilt.pipeline.maintenance.verify.verify_run", verify_run)
    monkeypatch.setattr("capfilt.pipeline.maintenance.repair.verify_run", verify_run)
    for option in ([], ["--records-only"]):
        assert call("verify", run_dir, *words, *option).exit_code == 0
    assert asked == [False, True]


@pytest.mark.parametrize(
    ("problems", "unfinished", "runs"),
    [([], 0, False), ([Problem("x", "missing", "fetch")], 0, True), ([], 1, True)],
)
def test_repair_finishes_the_run_if_anything_is_missing(run_dir, monkeypatch, problems, unfinished, runs):
    started = []
    found = verification(problems, unfinished)
    monkeypatch.setattr("capfilt.pipeline.maintenance.repair.repair_run", lambda *_, **__: (found, ["fetch"]))
    monkeypatch.setattr(inspect_module, "run_config", lambda *arguments: started.append(arguments))
    result = call("verify", run_dir, "--repair", "--set", "run.seed=1")
    assert result.exit_code == 0, result.output
    assert ("making again fetch" in lines_of(result)) is runs and bool(started) is runs
    if runs:
        config, resume = started[0]
        assert config.run.seed == 1
        assert resume == f"capfilt run {run_dir}/config.yaml --set run.dir={run_dir} --set run.seed=1"


def test_report_needs_a_finished_round(run_dir):
    result = call("report", run_dir)
    assert (
        result.exit_code == 2 and "no round is bootstrapped yet; finish one with capfilt run" in result.stderr
    )


def test_report_ends_with_a_query(run_dir, monkeypatch):
    monkeypatch.setattr(Ledger, "node", lambda ledger, name: {} if name == "bootstrap.1" else None)
    monkeypatch.setattr("capfilt.pipeline.nodes.report.write_report", lambda *_: RoundMetrics(round=1))
    result = call("report", run_dir)
    assert result.exit_code == 0, result.output
    assert lines_of(result)[-1].startswith("look ") and "SELECT origin, 1-avg(kept::int)" in result.stdout


@pytest.mark.parametrize("command", ["report", "verify", "retry"])
def test_folder_of_runs_lists_them(run_dir, command):
    parent = run_dir.parent
    (parent / "other").mkdir()
    (parent / "other" / "config.yaml").write_text("")
    result = call(command, f"{parent}/")
    assert (result.exit_code, result.stderr) == (
        2,
        f"error: {parent}/: not a run directory, it has no config.yaml; give one of the runs in it: "
        f"{parent}/other, {parent}/run\n",
    )


@pytest.mark.parametrize(("failed", "code"), [(None, 0), ("retry: a shard [/x] failed", 1)])
def test_retry_prints_its_closing_lines(run_dir, monkeypatch, failed, code):
    calls = []

    def retry_rows(held, classes, console, resume, activity):
        calls.append((held.config.run.seed, classes))
        return SimpleNamespace(failed=failed)

    monkeypatch.setattr("capfilt.pipeline.maintenance.retry.retry_rows", retry_rows)
    monkeypatch.setattr(
        "capfilt.pipeline.maintenance.retry.closing_lines",
        lambda found, folder, command, resume: [("run", folder), ("again", command), ("continue", resume)],
    )
    result = call("retry", f"{run_dir}/", "--class", "dns,timeout", "--set", "run.seed=1")
    assert result.exit_code == code, result.output
    assert calls == [(1, ("dns", "timeout"))]
    assert lines_of(result) == ([f"error {failed}"] if failed else []) + [
        f"run {run_dir}",
        f"again capfilt retry {run_dir}/ --class dns,timeout --set run.seed=1",
        f"continue capfilt run {run_dir}/config.yaml --set run.dir={run_dir} --set run.seed=1",
    ]


def test_interrupted_retry_prints_its_command(run_dir, monkeypatch):
    def retry_rows(*_):
        raise Interrupted(2)

    def exit_now(code):
        raise SystemExit(code)

    monkeypatch.setattr("capfilt.pipeline.maintenance.retry.retry_rows", retry_rows)
    monkeypatch.setattr(amend, "exit_now", exit_now)
    result = call("retry", run_dir)
    assert (result.exit_code, lines_of(result)) == (130, [f"resume capfilt retry {run_dir}"])
