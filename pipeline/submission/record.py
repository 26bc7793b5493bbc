"""What a run directory says of the Ray job that works on it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import msgspec

from capfilt.cluster.submission.address import SUBMITTED_BY, SUBMITTED_TO, job_of_this_process
from capfilt.stages.storage.layout import JOB_RECORD
from capfilt.stages.storage.store import Store


@dataclass(kw_only=True, frozen=True)
class JobRecord:
    """`lease/job.json`: the Ray job that works on the run directory, or was the last to do so."""

    job: str
    """Its submission id."""
    address: str | None
    """Where it was submitted, by `capfilt submit`."""
    command: str | None
    """The command that submitted it."""
    since: str
    """When it took the lease, ISO 8601, UTC."""


def record_job(run_dir: Store) -> None:
    """Record the Ray job that this process belongs to; if it belongs to none, remove the record."""
    job = job_of_this_process()
    if job is None:
        run_dir.remove_file(JOB_RECORD)
    else:
        record = JobRecord(
            job=job,
            address=os.environ.get(SUBMITTED_TO),
            command=os.environ.get(SUBMITTED_BY),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        run_dir.put_json(JOB_RECORD, asdict(record))


def find_job(run_dir: Store) -> JobRecord | None:
    """The last Ray job on a run directory; None if there was none, or if its record is damaged."""
    data = run_dir.find(JOB_RECORD)
    try:
        return None if data is None else msgspec.json.decode(data, type=JobRecord)
    except msgspec.DecodeError:
        return None
