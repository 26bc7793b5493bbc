"""What the command line prints at the end, and how it ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from capfilt.pipeline.console.streams import BrokenPipeSafe, flush_output


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
                print(f"error: {line}", file=BrokenPipeSafe(sys.stderr))
            if isinstance(error, LeaseError):
                exit_now(2)  # the directory is another's: nodes still at work in threads must not go on
            raise SystemExit(2) from None


def _interrupted(resume: str | None) -> NoReturn:
    print(
        f"\ninterrupted; go on with: {resume}" if resume else "\ninterrupted", file=BrokenPipeSafe(sys.stderr)
    )
    exit_now(130)


def exit_now(code: int) -> NoReturn:
    """End at once: node threads may wait inside Ray and cannot be joined; records on disk decide what is done."""
    flush_output()
    os._exit(code)
