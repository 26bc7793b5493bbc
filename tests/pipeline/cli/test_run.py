"""`capfilt run`, `quickstart` and `check`: exit codes, the closing block, and the command it ends with."""

import io
import json
import logging
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from capfilt.pipeline import execute as execute_module
from capfilt.pipeline.cli import run as run_module
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.config.load import load_config
from capfilt.pipeline.console import logs
from capfilt.pipeline.console.logs import LogSettings, logging_configured
from capfilt.pipeline.console.signals import Interrupted
from capfilt.pipeline.prepare import open_run
from tests.local_run import local_run
from tests.runs import NO_RESULT
from tests.tiny import tiny_data, write_config

LOGGER = logging.getLogger("capfilt.stages.x")


@pytest.fixture
def config(tmp_path):
    return write_config(tmp_path / "c.yaml", tiny_data(tmp_path))


def call(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def last_line(result):
    return " ".join(result.stdout.splitlines()[-1].split())


@pytest.fixture
def outcome(monkeypatch):
    """What the execution returns; `calls` has the arguments of the preparation."""
    outcome = SimpleNamespace(failed={}, calls=[])

    @contextmanager
    def hold_run(config, notify):
        yield open_run(config)

    def prepare(run_dir, **options):
        assert callable(options.pop("tell"))
        outcome.calls.append((run_dir.config.run.dir, options))
        return "prepared"

    monkeypatch.setattr("capfilt.pipeline.prepare.hold_run", hold_run)
    monkeypatch.setattr("capfilt.pipeline.prepare.prepare", prepare)
    monkeypatch.setattr("capfilt.pipeline.execute.execute", lambda *_: outcome)
    return outcome


@pytest.mark.parametrize(("until", "label"), [(None, "again"), ("bootstrap.1", "continue")])
def test_run_ends_with_the_command_to_run_next(tmp_path, config, outcome, until, label):
    options = ["--until", until] if until else []
    result = call("run", config, "--set", "run.seed=1", "--fresh", "fetch", *options)
    assert result.exit_code == 0, result.output
    assert last_line(result) == f"{label} capfilt run {config} --set run.seed=1"
    assert outcome.calls == [(str(tmp_path / "run"), {"until": until, "fresh": ["fetch"]})]


def test_failed_nodes_are_listed_and_exit_with_code_1(config, outcome):
    outcome.failed = {"fetch": "fetch: all of [/data] failed", "filter.1": "filter.1: [Errno 2]"}
    result = call("run", config)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[:2] == [
        "error fetch: all of [/data] failed",
        "error filter.1: [Errno 2]",
    ]
    assert last_line(result) == f"resume capfilt run {config}"


def test_interrupted_run_exits_with_the_code_of_the_signal(config, outcome, monkeypatch):
    def execute(*_):
        raise Interrupted(15)

    def exit_now(code):
        raise SystemExit(code)

    monkeypatch.setattr("capfilt.pipeline.execute.execute", execute)
    monkeypatch.setattr(run_module, "exit_now", exit_now)
    result = call("run", config)
    assert result.exit_code == 143 and last_line(result) == f"resume capfilt run {config}"


def test_quickstart_runs_the_shipped_config(outcome):
    result = call("quickstart", "--set", "run.seed=2")
    assert result.exit_code == 0 and last_line(result) == "again capfilt quickstart --set run.seed=2"
    assert outcome.calls == [("runs/quickstart", {"until": None, "fresh": []})]


def test_log_lines_of_a_run_name_it(tmp_path, config, outcome, monkeypatch):
    monkeypatch.setattr("capfilt.pipeline.execute.execute", lambda *_: LOGGER.info("in the run") or outcome)
    result = call("--log-json", "run", config)
    assert f'"run": "{tmp_path / "run"}"' in result.stderr and "in the run" not in result.stdout


def test_log_lines_of_a_node_name_it(config, monkeypatch):
    context, stream = local_run(load_config(config)), io.StringIO()

    def work(context, node):
        LOGGER.warning("in the node")
        return NO_RESULT

    node = context.run_dir.nodes["fetch"]
    node = replace(node, kind=replace(node.kind, run=work))
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
    with logging_configured(LogSettings()):
        execute_module._run_node(context, node, "new")
    assert stream.getvalue().endswith(": in the node [node=fetch]\n")


def test_check_prints_the_nodes_and_what_differs_from_the_defaults(config):
    result = call("check", config, "--set", "run.name=[/other]")
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert result.exit_code == 0 and "name: '[/other]'" in lines and "grace_seconds: 30.0" not in lines
    nodes = lines[lines.index("node state needs") + 1 :]
    assert nodes[: nodes.index("")] == [
        "fetch new",
        "pretrain.0 new fetch",
        "captioner.1 new pretrain.0",
        "filter.1 new pretrain.0",
        "bootstrap.1 new captioner.1, filter.1",
        "pretrain.1 new fetch, bootstrap.1",
        "evaluate.1 new pretrain.0, pretrain.1",
        "report.1 new bootstrap.1, evaluate.1",
    ]


def test_check_can_print_every_key_or_json(config):
    assert "  grace_seconds: 30.0\n" in call("check", config, "--full").stdout
    found = json.loads(call("check", config, "--json").stdout)
    assert found["nodes"]["fetch"] == {"state": "new", "needs": []}
    assert found["sources"]["web"]["kind"] == "web" and found["config"]["run"]["grace_seconds"] == 30.0


def test_check_of_a_missing_manifest_is_one_line(tmp_path):
    data = tiny_data(tmp_path)
    del data["shapes"]
    result = call("check", write_config(tmp_path / "c.yaml", data))
    assert result.exit_code == 2 and result.stderr.startswith(
        "error: sources.human.rows.manifest: no file at "
    )
