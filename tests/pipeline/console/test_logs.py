"""Logging: levels, formats, and the run, node and shard in every record."""

import io
import json
import logging
import re
import sys
import threading
import warnings
from datetime import datetime
from types import SimpleNamespace

import pyarrow as pa
import pytest
from ray import cloudpickle
from rich.console import Console
from rich.live import Live

from capfilt.cluster.chain.steps import Step
from capfilt.pipeline.console import logs
from capfilt.pipeline.console.logs import (
    LogSettings,
    configure_logging,
    log_context,
    log_run,
    logging_configured,
    shard_log_context,
    with_worker_logging,
)
from capfilt.pipeline.nodes.chain import ISOLATION, with_step_logging
from tests.local_chain import run_local

LOGGER = logging.getLogger("capfilt.stages.x")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def stderr(monkeypatch):
    """What the program logs to stderr, which is no terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))  # pytest replaces sys.stderr itself
    return stream


def json_lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def messages(stream):
    return [line["message"] for line in json_lines(stream)]


def test_lines_have_time_level_logger_and_context(stderr):
    with logging_configured(LogSettings()):
        LOGGER.info("%d rows", 3)
        log_run("runs/x")
        with log_context(node="bootstrap.1"), log_context(shard="web/000012"):
            LOGGER.warning("two\nlines")
        LOGGER.error("last")
    lines = stderr.getvalue().splitlines()
    timestamps = [line[:20] for line in lines]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", timestamp) for timestamp in timestamps)
    assert [line[20:] for line in lines] == [
        "INFO    capfilt.stages.x: 3 rows",
        "WARNING capfilt.stages.x: two lines [run=runs/x node=bootstrap.1 shard=web/000012]",
        "ERROR   capfilt.stages.x: last [run=runs/x]",
    ]


def test_json_lines_have_the_fields_that_are_known(stderr):
    with logging_configured(LogSettings(as_json=True, run="runs/x")):
        LOGGER.info("é %s", "a\nb")
        with log_context(node="fetch", shard="web/000001"):
            LOGGER.warning("b")
    first, second = json_lines(stderr)
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"level": "info", "logger": "capfilt.stages.x", "message": "é a\nb", "run": "runs/x"}
    assert list(second) == ["time", "level", "logger", "message", "run", "node", "shard"]
    assert (second["node"], second["shard"]) == ("fetch", "web/000001")


@pytest.mark.parametrize("as_json", [False, True])
def test_exception_is_logged_with_its_traceback(stderr, as_json):
    with logging_configured(LogSettings(as_json=as_json)):
        try:
            raise KeyError("missing")
        except KeyError:
            LOGGER.exception("failed")
    text = json_lines(stderr)[0]["exception"] if as_json else stderr.getvalue()
    assert text.strip().endswith("KeyError: 'missing'") and "Traceback" in text


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level_applies_to_the_program(stderr, level, expected):
    with logging_configured(LogSettings(level=level, as_json=True)):
        for name in ("debug", "info", "warning", "error"):
            getattr(LOGGER, name)(name)
    assert messages(stderr) == expected


def test_libraries_are_quieter_than_the_program(stderr):
    with logging_configured(LogSettings(level="debug", as_json=True)):
        for name in ("timm", *logs.NOISY_LIBRARIES):
            for level in ("info", "warning", "error"):
                getattr(logging.getLogger(f"{name}.part"), level)(f"{name} {level}")
    assert messages(stderr) == [
        "timm warning",
        "timm error",
        *(f"{name} error" for name in logs.NOISY_LIBRARIES),
    ]
    assert {"PIL", "urllib3", "botocore", "fsspec"} <= set(logs.NOISY_LIBRARIES)


def test_libraries_follow_a_level_above_warning(stderr):
    with logging_configured(LogSettings(level="error", as_json=True)):
        logging.getLogger("timm").warning("hidden")
        logging.getLogger("timm").error("shown")
    assert messages(stderr) == ["shown"]


def test_warnings_of_python_are_log_lines(stderr):
    with logging_configured(LogSettings()), warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # pytest has its own capture
        warnings.warn("odd\n  value", stacklevel=1)
        logging.captureWarnings(False)
    (line,) = stderr.getvalue().splitlines()
    assert " WARNING py.warnings: " in line and "UserWarning: odd value" in line


def test_logging_ends_with_the_context(stderr):
    root, program = logging.getLogger(), logging.getLogger("capfilt")
    before = (root.handlers[:], root.level, program.level, logging.getLogger("PIL").level)
    with logging_configured(LogSettings(level="debug")):
        assert len(root.handlers) == len(before[0]) + 1
        log_run("runs/x")
        assert len(root.handlers) == len(before[0]) + 1
    assert (root.handlers[:], root.level, program.level, logging.getLogger("PIL").level) == before
    log_run("runs/x")  # does nothing
    assert root.handlers == before[0]


def test_same_settings_keep_the_handler(stderr):
    with logging_configured(LogSettings()):
        handler = logging.getLogger().handlers[-1]
        configure_logging(LogSettings())
        assert logging.getLogger().handlers[-1] is handler
        configure_logging(LogSettings(level="debug"))
        assert logging.getLogger().handlers[-1] is not handler


def test_context_belongs_to_its_thread(stderr):
    with logging_configured(LogSettings(as_json=True, run="runs/x")):
        with log_context(node="fetch"):
            thread = threading.Thread(target=lambda: LOGGER.info("other thread"))
            thread.start()
            thread.join()
            LOGGER.info("this thread")
        LOGGER.info("after")
    assert [(line["message"], line.get("node"), line["run"]) for line in json_lines(stderr)] == [
        ("other thread", None, "runs/x"),
        ("this thread", "fetch", "runs/x"),
        ("after", None, "runs/x"),
    ]


def test_context_ends_with_an_exception(stderr):
    with logging_configured(LogSettings(as_json=True)):
        with pytest.raises(KeyError), log_context(node="fetch"):
            raise KeyError
        LOGGER.info("after")
    assert "node" not in json_lines(stderr)[0]


def test_terminal_lines_are_styled_and_have_no_markup(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("COLUMNS", "120")
    with logging_configured(LogSettings(run="runs/x")):
        LOGGER.warning("a [/red] path")
    text = re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
    assert text != stream.getvalue()
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING  a \[/red\] path \[run=runs/x\]\s*$", text)


def test_json_lines_on_a_terminal_are_json(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with logging_configured(LogSettings(as_json=True)):
        LOGGER.warning("a")
    assert messages(stream) == ["a"]


def test_terminal_lines_are_written_above_a_live_table(monkeypatch):
    stderr, stdout = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    console = Console(file=stdout, force_terminal=True, width=120)
    with logging_configured(LogSettings()), Live("the table", console=console, auto_refresh=False):
        LOGGER.warning("a line")
    assert "a line" in stdout.getvalue() and "a line" not in stderr.getvalue()


@pytest.mark.parametrize("terminal", [True, False])
def test_record_cannot_control_the_terminal(monkeypatch, terminal):
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with logging_configured(LogSettings()):
        LOGGER.warning("column %s", "a\x1b]0;x\x07b [/x]")
    assert r"a\x1b]0;x\x07b [/x]" in stream.getvalue()


def test_redirected_stderr_is_not_drawn_on_the_terminal(monkeypatch):
    stderr, stdout = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", stderr)
    console = Console(file=stdout, force_terminal=True, width=120)
    with logging_configured(LogSettings()), Live("the table", console=console, auto_refresh=False):
        LOGGER.warning("a line")
    assert "a line" in stderr.getvalue() and "a line" not in stdout.getvalue()


def test_unwritable_stderr_ends_nothing(monkeypatch):
    class FullDisk(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", FullDisk())
    with logging_configured(LogSettings()):
        LOGGER.warning("lost")


class Logging:
    """A stage that logs once per shard."""

    def __call__(self, batch):
        LOGGER.info("working")
        return batch


def test_worker_processes_log_as_the_driver_and_name_node_and_shard(stderr):
    step = Step(name="caption", make=Logging, kind="map", isolation=ISOLATION)
    with logging_configured(LogSettings(as_json=True)):
        log_run("runs/x")
        pickled = cloudpickle.dumps(with_step_logging(step, "bootstrap.1"))
    assert list(run_local([{"source": "web", "shard": 12}], [with_step_logging(step, "x")]))
    assert stderr.getvalue() == ""  # here logging is not configured, and so it is not in workers
    try:
        rows = [{"source": "web", "shard": 12}, {"source": "web", "shard": 13}]
        assert len(list(run_local(rows, [cloudpickle.loads(pickled)]))) == 2
        with shard_log_context("web/000014"):
            LOGGER.debug("hidden")
    finally:
        with logging_configured(LogSettings()):
            pass  # its end removes the configuration of the worker
    assert [(line["message"], line["run"], line["node"], line["shard"]) for line in json_lines(stderr)] == [
        ("working", "runs/x", "bootstrap.1", f"web/{shard:06d}") for shard in (12, 13)
    ]


def test_rowwise_part_of_a_step_is_configured_too(stderr):
    step = Step(name="read", make=Logging, rowwise=Logging)
    assert with_step_logging(step, "fetch").rowwise is Logging
    with logging_configured(LogSettings()):
        wrapped = with_step_logging(step, "fetch")
        assert wrapped.rowwise is not Logging and isinstance(wrapped.rowwise(), Logging)
        assert with_step_logging(Step(name="map", make=Logging), "fetch").rowwise is None


def test_worker_function_gets_its_arguments(stderr):
    with logging_configured(LogSettings()):
        work = with_worker_logging(lambda a, *, b: pa.array([a, b]).to_pylist(), node="evaluate.1")
        assert work(1, b=2) == [1, 2]
        LOGGER.info("in the worker")
    assert "[node=evaluate.1]" in stderr.getvalue()
