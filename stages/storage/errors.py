"""Errors of the places that files are read from and written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from capfilt.models.disk_errors import describe_disk_error
from capfilt.stages.errors import UserError


class StoreError(UserError):
    """A place cannot be reached, read or written; the message names the place and the reason."""


@contextmanager
def explain_disk_errors(path: object) -> Iterator[None]:
    """Raise StoreError, which names the file and says what to do, if the disk takes no more data while the
    body runs. Any other error is raised unchanged.

    Args:
        path: the file or folder that the body writes.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:  # libraries raise types of their own
        message = describe_disk_error(error, path)
        if message is None:
            raise
        raise StoreError(message) from error
