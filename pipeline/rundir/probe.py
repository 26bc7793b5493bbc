"""Checks that a place can be a run directory: it can be written, and no file in it can be created twice."""

from __future__ import annotations

import errno
import uuid

from capfilt.models.disk_errors import ADVICE, disk_error_number
from capfilt.stages.storage.local_files import TEMPORARY_PREFIX
from capfilt.stages.storage.s3_errors import describe_error
from capfilt.stages.storage.store import Store, StoreError

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
"""Error codes of file systems without hard links: mounted buckets, exFAT, some network shares."""


def check_writable(run_dir: Store, name: str = "run.dir") -> None:
    """Write, read and remove one small object, and check that the store refuses to create it twice.

    Args:
        name: what messages call the place.

    Raises:
        StoreError: the place cannot be a run directory; the message names it and the reason.
    """
    probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
    try:
        run_dir.create(probe, b"capfilt")
        created_twice = run_dir.create(probe, b"another")
        content = run_dir.read(probe)
        run_dir.remove(probe)
    except Exception as error:  # any library's error for "no such bucket", "denied", "unreachable"
        cause = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
        if getattr(cause, "errno", None) in NO_LINKS and _can_put_files(run_dir):
            raise StoreError(
                f"{name} {run_dir.url}: this file system has no hard links, with which shards are "
                "committed; if it is a mounted bucket, give the address of the bucket (s3://, gs://, ...), "
                "else use another disk"
            ) from error
        advice = ADVICE.get(disk_error_number(cause) or 0, "")
        raise StoreError(
            f"{name} {run_dir.url}: cannot write there ({describe_error(cause)}){advice and f'; {advice}'}"
        ) from error
    if not created_twice and content != b"capfilt":
        raise StoreError(
            f"{name} {run_dir.url}: what is read there is not what was written; use another store"
        )
    if created_twice:
        raise StoreError(
            f"{name} {run_dir.url}: this store ignores If-None-Match: * and replaces objects that exist, "
            "so a shard could be committed twice; use a store with conditional writes"
        )


def _can_put_files(run_dir: Store) -> bool:
    """Whether files can be written in the way that needs no hard link."""
    probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
    try:
        run_dir.put(probe, b"capfilt")
        run_dir.remove_file(probe)
    except (OSError, StoreError):
        return False
    return True
