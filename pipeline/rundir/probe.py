"""Whether a place can be a run directory: it can be written to, and a file in it cannot be created twice."""

from __future__ import annotations

import errno
import uuid

from capfilt.stages.storage.store import TEMPORARY_PREFIX, Store, StoreError, reason

NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)
"""The system's codes for a file system without hard links: mounted buckets, exFAT, some network shares."""


def check_writable(run: Store) -> None:
    """Write and remove one small object, and see that it cannot be created twice.

    Raises:
        StoreError: naming the place and the reason, so that a run fails in its first second.
    """
    probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
    try:
        run.create(probe, b"capfilt")
        again = run.create(probe, b"another")
        run.remove(probe)
    except Exception as error:  # any library's error for "no such bucket", "denied", "unreachable"
        cause = error.__cause__ if isinstance(error, StoreError) and error.__cause__ else error
        if getattr(cause, "errno", None) in NO_LINKS and _takes_files(run):
            raise StoreError(
                f"run.dir {run.url}: this file system has no hard links, by which a shard is committed once; where "
                "it is a bucket's mount, give the bucket's own address (s3://, gs://, ...), else another disk"
            ) from error
        raise StoreError(f"run.dir {run.url}: cannot write there ({reason(cause)})") from error
    if again:
        raise StoreError(
            f"run.dir {run.url}: this store replaces an object that was to be created if absent "
            "(If-None-Match: *), so a shard could be committed twice; use a store with conditional writes"
        )


def _takes_files(run: Store) -> bool:
    """Whether a file can be put, which needs no link."""
    probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
    try:
        run.put(probe, b"capfilt")
        run.remove_file(probe)
    except (OSError, StoreError):
        return False
    return True
