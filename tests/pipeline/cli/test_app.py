"""The `capfilt` command as a whole: commands, global options, and that it starts light."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import capfilt
from capfilt.pipeline.cli import app as app_module
from capfilt.pipeline.cli.app import FAMILIES, app
from capfilt.pipeline.console import logs
from tests.tiny import tiny_data, write_config

COMMANDS = [
    "quickstart",
    "run",
    "check",
    "plan",
    "ablate",
    "submit",
    "stop",
    "status",
    "show",
    "report",
    "verify",
    "retry",
    "rejudge",
    "export",
    "card",
    "caption",
    "match",
    "answer",
    "rank",
    "evaluate",
    "convert",
    "shapes",
    "clipart",
]


def call(*words, **environment):
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "100", **environment})


def test_help_lists_every_command_under_its_family():
    lines = call("--help").output.splitlines()
    listed = {}
    for line in lines:
        if line.startswith("╭─ "):
            heading = line.split(" ─")[0].removeprefix("╭─ ")
        elif line.startswith("│ ") and line[2] not in " -":
            listed.setdefault(heading, []).append(line.split()[1])
    assert listed == {family: [each.__name__ for each in commands] for family, commands in FAMILIES.items()}
    assert [name for names in listed.values() for name in names] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_page(command):
    result = call(command, "--help")
    assert result.exit_code == 0 and f"Usage: capfilt {command}" in result.output.replace("root ", "capfilt ")


def test_shell_completion_can_be_installed():
    assert {"--install-completion", "--show-completion"} <= set(call("--help").output.split())


def test_version_is_that_of_the_package():
    result = call("--version")
    assert (result.exit_code, result.output) == (0, f"capfilt {capfilt.__version__}\n")
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, result.output, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run"], "Missing argument 'CONFIG'"),
        (["run", "c.yaml", "--untli", "x"], "No such option: --untli"),
        (["rnu"], "No such command 'rnu'"),
        (["--log-level", "loud", "check", "c.yaml"], "Invalid value for '--log-level'"),
    ],
)
def test_usage_error_exits_with_code_2(words, message):
    result = call(*words)
    assert result.exit_code == 2 and message in result.output


def test_without_arguments_the_help_is_printed():
    assert "quickstart" in call().output


def log_lines(result):
    return [json.loads(line) for line in result.stderr.splitlines()]


@pytest.fixture
def logging_check(tmp_path, monkeypatch):
    """Arguments of a `check` that logs at every level while it tries the store."""
    logger = logging.getLogger("capfilt.test")

    def log(_):
        for level in ("debug", "info", "warning", "error"):
            getattr(logger, level)(level)
        return {"url": "", "free_bytes": None}

    monkeypatch.setattr("capfilt.pipeline.preflight.check.try_store", log)
    return ["check", write_config(tmp_path / "c.yaml", tiny_data(tmp_path))]


@pytest.mark.parametrize(
    ("options", "environment", "levels"),
    [
        ([], {}, ["info", "warning", "error"]),
        (["--log-level", "debug"], {}, ["debug", "info", "warning", "error"]),
        (["--log-level", "error"], {}, ["error"]),
        ([], {"CAPFILT_LOG_LEVEL": "warning"}, ["warning", "error"]),
        (["--log-level", "error"], {"CAPFILT_LOG_LEVEL": "debug"}, ["error"]),
    ],
)
def test_log_level_is_an_option_or_an_environment_variable(logging_check, options, environment, levels):
    result = call("--log-json", *options, *logging_check, **environment)
    assert result.exit_code == 0, result.output
    assert [line["level"] for line in log_lines(result)] == levels
    assert "bootstrap.1" in result.stdout and "capfilt.test" not in result.stdout


def test_json_logs_can_be_chosen_by_an_environment_variable(logging_check):
    assert log_lines(call(*logging_check, CAPFILT_LOG_JSON="1"))[0]["message"] == "info"
    assert " INFO    capfilt.test: info" in call(*logging_check).stderr


def test_logging_is_no_longer_configured_after_a_command(logging_check):
    handlers = logging.getLogger().handlers[:]
    call(*logging_check)
    assert logging.getLogger().handlers == handlers and logs.with_worker_logging(print, node="x") is print


def test_cli_starts_without_ray_torch_and_pydantic():
    heavy = ("ray", "torch", "pydantic", "pyarrow")
    code = f"import sys, capfilt.pipeline.cli.app; print([n for n in {heavy} if n in sys.modules])"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(("given", "value"), [(None, "0"), ("1", "1")])
def test_a_thread_that_outlives_the_run_starts_no_ray(monkeypatch, given, value):
    monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", "0")  # is restored after the test
    monkeypatch.delenv("RAY_ENABLE_AUTO_CONNECT")
    if given is not None:
        monkeypatch.setenv("RAY_ENABLE_AUTO_CONNECT", given)
    monkeypatch.setattr(app_module, "app", lambda prog_name: None)
    app_module.main()
    assert os.environ["RAY_ENABLE_AUTO_CONNECT"] == value
