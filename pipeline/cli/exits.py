"""What the command line prints at the end, and how it ends."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO, cast

from rich.console import Console


def last_metrics(config: Any) -> dict[str, Any] | None:
    """metrics.json of the last round that has one; imports as little as it can, as all here."""
    from capfilt.stages.storage.store import Store, StoreError

    store = Store(config.run.dir, config.run.storage_options)
    with suppress(StoreError):  # it is away, which has been told
        for round_ in range(config.run.rounds, 0, -1):
            metrics: dict[str, Any] | None = store.find_json(f"reports/{round_}/metrics.json")
            if metrics is not None:
                return metrics
    return None


def close(
    console: Console, config: Any, metrics: dict[str, Any] | None, next_step: str, command: str
) -> None:
    """Print the closing block of a run.

    Args:
        metrics: of its last report, None if there is none yet.
        next_step: what the command does next: resume, continue or again.
    """
    from capfilt.pipeline.console.summary import closing_block

    run_dir = config.run.dir.rstrip("/")
    places = [("run", run_dir)]
    if metrics is not None:
        round_ = metrics["round"]
        places += [
            ("candidates", f"{run_dir}/rounds/{round_}/"),
            ("report", f"{run_dir}/reports/{round_}/report.html"),
            ("metrics", f"{run_dir}/reports/{round_}/metrics.json"),
        ]
    console.print()
    console.print(closing_block(metrics, places, command, next_step), soft_wrap=True)


def tell(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """(label, value) lines, never wrapped, so that paths and commands can be copied whole."""
    from capfilt.pipeline.console.summary import line

    for label, value in lines:
        console.print(line(label, value), soft_wrap=True)


def ratio_query(run_dir: str, round_: int) -> str:
    """The noise ratio of each origin, for DuckDB."""
    return f"SELECT origin, 1-avg(kept::int) FROM '{run_dir}/rounds/{round_}/**/*.parquet' GROUP BY 1"


def with_overrides(words: Sequence[str], overrides: Sequence[str]) -> str:
    """A command with its overrides, as a shell reads it."""
    return shlex.join([*words, *(word for override in overrides for word in ("--set", override))])


def going_on(run_dir: str, overrides: Sequence[str]) -> str:
    """The command that makes the rest of a run, wherever its directory has been moved to."""
    place = run_dir.rstrip("/")
    return with_overrides(["capfilt", "run", f"{place}/config.yaml"], [f"run.dir={place}", *overrides])


class Lasting:
    """A stream that may lose its reader: a terminal that is closed, a pipe's other end, a full disk under a log. What
    was to be said is lost then, the run is not."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def make_console() -> Console:
    """Where everything is printed."""
    # Piped output has no width of its own; 80 columns would break paths and commands.
    return Console(file=cast(TextIO, Lasting(sys.stdout)), width=None if sys.stdout.isatty() else 160)


def let_go() -> None:
    """What is still to be written is written, or dropped if it cannot be: Python would end with another exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class UserErrors:
    """Turns the mistakes a user can make into one line and exit code 2; anything else is a defect and raises."""

    def __init__(self, resume: str | None = None) -> None:
        self.resume = resume

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from capfilt.pipeline.errors import USER_ERRORS
        from capfilt.pipeline.rundir.lease import LeaseError

        if isinstance(error, KeyboardInterrupt):
            _interrupted(self.resume)
        if isinstance(error, USER_ERRORS):
            for line in str(error).splitlines():
                print(f"error: {line}", file=Lasting(sys.stderr))
            if isinstance(error, LeaseError):
                leave(2)  # the directory is another's: nodes still at work in threads must not go on
            raise SystemExit(2) from None


def _interrupted(resume: str | None) -> NoReturn:
    print(f"\ninterrupted; go on with: {resume}" if resume else "\ninterrupted", file=Lasting(sys.stderr))
    leave(130)


def leave(code: int) -> NoReturn:
    """End at once: node threads may wait inside Ray and cannot be joined; records on disk decide what is done."""
    let_go()
    os._exit(code)
