"""Errors of a disk that takes no more data, in words that say what to do."""

from __future__ import annotations

import errno
import os
import re

ADVICE = {
    errno.ENOSPC: "the disk is full: free space or inodes there, or use another disk",
    errno.EDQUOT: "your quota on this disk is used up: free space there, or use another disk",
    errno.EROFS: "the file system is mounted read-only: mount it writable, or use another disk",
}
"""What to do about each error that a user can fix."""
_NUMBER = re.compile(r"\b(?:os error|errno) (\d+)", re.IGNORECASE)
"""How libraries quote the number of a system error in messages of errors that are no OSError."""


def disk_error_number(error: BaseException) -> int | None:
    """The number of a system error in `ADVICE`, None for any other error."""
    number = getattr(error, "errno", None)
    if number is None:
        text = str(error)
        quoted = _NUMBER.search(text)
        number = int(quoted[1]) if quoted else None
        if number is None:
            number = next((n for n in ADVICE if os.strerror(n) in text), None)
    return number if number in ADVICE else None


def describe_disk_error(error: BaseException, path: object) -> str | None:
    """One line that names the file and says what to do; None if the error is not in `ADVICE`.

    Args:
        path: the file or folder that was being written.
    """
    number = disk_error_number(error)
    if number is None:
        return None
    return (
        f"{path}: cannot write it ({os.strerror(number)}); {ADVICE[number]}; then run the same command again"
    )
