"""Logging of the program, on stderr: styled lines on a terminal, timestamped lines elsewhere, or JSON.

Records carry the run, the node and the shard they belong to, where these are known. A command names its run
with `log_run`; node threads of the driver and stages of a worker use `log_context`; a worker process gets the
driver's settings and its node through `with_worker_logging`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeVar, cast

from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from capfilt.pipeline.console.progress import TIME_FORMAT
from capfilt.pipeline.console.streams import BrokenPipeSafe, SafeConsole, escape_controls

T = TypeVar("T")
Level = Literal["debug", "info", "warning", "error"]

PROGRAM = "capfilt"
"""Parent of all loggers of the program; the chosen level applies to it."""
NOISY_LIBRARIES = ("PIL", "aiobotocore", "botocore", "fsspec", "s3fs", "urllib3")
"""Libraries that warn about what the program handles itself, such as retries; only their errors are shown.
The level of Ray's loggers is set in `cluster.session`."""
CONTEXT_FIELDS = ("run", "node", "shard")


@dataclass(frozen=True)
class LogSettings:
    """How a process logs; picklable."""

    level: Level = "info"
    """Lowest level of the program's own records; of libraries, warnings and errors are shown at most."""
    as_json: bool = False
    """One JSON object per line."""
    run: str | None = None
    """Run directory that the process works on."""
    node: str | None = None
    """Node that the process works for; None in the driver, where `log_context` names the node of a thread."""


_settings: LogSettings | None = None
"""Settings of this process; None while logging is not configured."""
_handler: logging.Handler | None = None
"""The handler that belongs to the settings."""
_context: ContextVar[dict[str, str]] = ContextVar("capfilt_log_context")


@contextmanager
def log_context(**fields: str) -> Iterator[None]:
    """Add fields to the log records of this thread for the body's duration.

    Args:
        fields: any of `run`, `node` and `shard`.
    """
    token = _context.set(_context.get({}) | fields)
    try:
        yield
    finally:
        _context.reset(token)


@contextmanager
def logging_configured(settings: LogSettings) -> Iterator[None]:
    """Log according to `settings` for the body's duration; afterwards logging is not configured."""
    global _settings, _handler
    loggers = [logging.getLogger(name) for name in (None, PROGRAM, *NOISY_LIBRARIES)]
    levels = [logger.level for logger in loggers]
    configure_logging(settings)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if _handler is not None:
            logging.getLogger().removeHandler(_handler)
        logging.captureWarnings(False)
        _settings = _handler = None


def configure_logging(settings: LogSettings) -> None:
    """Make this process log to stderr according to `settings`; does nothing if it already does."""
    global _settings, _handler
    if settings == _settings:
        return
    root = logging.getLogger()
    if _handler is not None:
        root.removeHandler(_handler)
    _settings, _handler = settings, _make_handler(settings)
    root.addHandler(_handler)
    logging.getLogger(PROGRAM).setLevel(settings.level.upper())
    root.setLevel(max(logging.WARNING, logging.getLogger(PROGRAM).level))
    for name in NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(True)


def log_run(run_dir: str) -> None:
    """Name the run directory in all further records of this process, if logging is configured."""
    if _settings is not None:
        configure_logging(replace(_settings, run=run_dir))


def with_worker_logging(make: Callable[..., T], *, node: str) -> Callable[..., T]:
    """A function for worker processes: it configures logging there as it is here, then calls `make`.

    Picklable by cloudpickle. Without logging configured in this process, `make` itself is returned.

    Args:
        make: what the worker calls.
        node: named in every record of the worker.
    """
    if _settings is None:
        return make
    settings = replace(_settings, node=node)

    def configure_and_make(*args: Any, **kwargs: Any) -> T:
        configure_logging(settings)
        return make(*args, **kwargs)

    return configure_and_make


def shard_log_context(shard: str) -> AbstractContextManager[None]:
    """`log_context` with a shard (`cluster.chain.steps.Step.log_context`)."""
    return log_context(shard=shard)


def _make_handler(settings: LogSettings) -> logging.Handler:
    handler: logging.Handler
    if sys.stderr.isatty() and not settings.as_json:
        console = SafeConsole(file=cast(TextIO, _CurrentStderr()))
        handler = RichHandler(
            console=console, show_path=False, log_time_format=TIME_FORMAT, highlighter=NullHighlighter()
        )
        handler.setFormatter(_LineFormatter("%(message)s"))
    else:
        handler = logging.StreamHandler(cast(TextIO, BrokenPipeSafe(sys.stderr)))
        line = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        handler.setFormatter(_JsonFormatter() if settings.as_json else _LineFormatter(line, TIME_FORMAT))
    handler.addFilter(_ContextFilter(settings))
    return handler


class _CurrentStderr:
    """Whatever `sys.stderr` is at the time of a write: during a live display it is rich's, which writes above
    it."""

    def write(self, text: str) -> int:
        with suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            sys.stderr.flush()

    def isatty(self) -> bool:
        return True


class _ContextFilter(logging.Filter):
    """Sets `run`, `node` and `shard` of every record; None where unknown."""

    def __init__(self, settings: LogSettings) -> None:
        super().__init__()
        self.defaults = {"run": settings.run, "node": settings.node}

    def filter(self, record: logging.LogRecord) -> bool:
        values = self.defaults | _context.get({})
        for name in CONTEXT_FIELDS:
            setattr(record, name, values.get(name))
        return True


class _LineFormatter(logging.Formatter):
    """One line per record, a traceback aside, with the context at its end: `message [node=fetch
    shard=web/000012]`. Control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_controls(super().format(record))

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        record.message = " ".join(record.message.split())
        known = [f"{name}={getattr(record, name)}" for name in CONTEXT_FIELDS if getattr(record, name, None)]
        return super().formatMessage(record) + (f" [{' '.join(known)}]" if known else "")


class _JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, then run, node, shard and exception if there
    are any."""

    def format(self, record: logging.LogRecord) -> str:
        values = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
        }
        context = {name: getattr(record, name, None) for name in CONTEXT_FIELDS}
        values |= {name: value for name, value in context.items() if value is not None}
        if record.exc_info:
            values["exception"] = self.formatException(record.exc_info)
        return json.dumps(values, ensure_ascii=False)
