"""How a command ends: error lines for the user and exit codes."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from capfilt.pipeline.console.streams import BrokenPipeSafe, escape_controls, flush_output

USAGE_ERROR = 2
"""Exit code after a mistake in config, input or usage."""
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""


class UserErrors:
    """Context manager that turns errors of the user into `error: ...` lines and exit code 2.

    Any other exception is a defect of the program and is raised. Ctrl-C exits with code 130.

    Args:
        resume: the command that is printed after Ctrl-C.
    """

    def __init__(self, resume: str | None = None) -> None:
        self.resume = resume

    def __enter__(self) -> UserErrors:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        from capfilt.pipeline.errors import USER_ERRORS
        from capfilt.pipeline.rundir.lease import LeaseError

        if isinstance(error, KeyboardInterrupt):
            _exit_interrupted(self.resume)
        if isinstance(error, USER_ERRORS):
            for line in str(error).split("\n"):
                print(f"error: {escape_controls(line)}", file=BrokenPipeSafe(sys.stderr))
            if isinstance(error, LeaseError):
                exit_now(
                    USAGE_ERROR
                )  # another process owns the run directory: node threads must not continue
            raise SystemExit(USAGE_ERROR) from None


def _exit_interrupted(resume: str | None) -> NoReturn:
    hint = f"; resume with: {resume}" if resume else ""
    print(escape_controls(f"\ninterrupted{hint}"), file=BrokenPipeSafe(sys.stderr))
    exit_now(INTERRUPTED)


def exit_now(code: int) -> NoReturn:
    """Exit without joining threads: node threads may be blocked inside Ray. Commit records on disk decide
    what is done."""
    flush_output()
    os._exit(code)
