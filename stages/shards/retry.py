"""Downloads failed rows of a committed corpus shard again, without changing the corpus: read → fetch → write.

The result is the shard's next generation, staged in `replacing/<source>/`: files with names of their own,
then the record `000012.json`, created exclusively and last. `pipeline.rundir.generations` puts it in the
place of the shard.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET
from msgspec.structs import replace

from capfilt.stages.errors import UserError
from capfilt.stages.rows import ROW_SCHEMA, corpus_table, table_of, with_column
from capfilt.stages.shards.attempts import listed_file
from capfilt.stages.shards.commit import make_corpus_record, read_commit
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.read import decode_corpus_table, read_corpus_shard
from capfilt.stages.shards.records import (
    CommitRecord,
    CorpusRecord,
    StagedShard,
    decode_commit,
    decode_staged,
    encode,
)
from capfilt.stages.shards.write import WRITTEN_SCHEMA, encode_corpus_files
from capfilt.stages.status import PENDING, STATUSES, SUCCESS
from capfilt.stages.storage.layout import STOP_FILE, ShardFiles, corpus_shard, staged_shard
from capfilt.stages.storage.store import FileEntry, Store, sha256

OUTCOME_COLUMNS = (
    "error_message",
    "width",
    "height",
    "original_width",
    "original_height",
    "sha256",
    "phash",
    "optout_signal",
)
"""Columns besides `status` that a download sets."""


class UnknownClass(UserError):
    """A status is not one of failed rows; the message lists the allowed ones."""


class DamagedShard(ValueError):
    """A file of a corpus shard differs from its record; writing the shard again would hide that."""


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """Which rows are downloaded again."""

    run_dir: Store
    """The run directory."""
    classes: tuple[str, ...]
    """Statuses (names in `stages.status`), sorted."""


class ReadFailed:
    """Turns {"source", "shard"} into the rows of that committed corpus shard. Rows of the chosen classes
    become pending and lose their outcome; the other rows are unchanged."""

    def __init__(self, config: RetryConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The rows (`ROW_SCHEMA`) of one shard {"source", "shard"}; no rows if the run is to stop.

        Raises:
            DamagedShard: a file differs from the record.
        """
        run_dir = self.config.run_dir
        if run_dir.exists(STOP_FILE):
            return table_of([], ROW_SCHEMA)
        (item,) = batch.to_pylist()
        paths = corpus_shard(item["source"], item["shard"])
        _check_files(run_dir, paths)
        rows = read_corpus_shard(run_dir, paths, read_commit(run_dir, paths.record))
        retried = retry_mask(rows, self.config.classes)
        for name in OUTCOME_COLUMNS:
            values = [None if r else v for r, v in zip(retried, rows[name].to_pylist(), strict=True)]
            rows = with_column(rows, name, values, ROW_SCHEMA.field(name).type)
        status = [PENDING if r else s for r, s in zip(retried, rows["status"].to_pylist(), strict=True)]
        return with_column(rows, "status", status, pa.string())


class StageRetried:
    """Writes the next generation of a shard to the staging folder, if the status of a row has changed."""

    def __init__(self, config: RetryConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row (`WRITTEN_SCHEMA`) for one shard; its records are {"retry": the staged shard}.

        Raises:
            AssertionError: a row that was not retried has changed.
        """
        return self.shardwise(Pack()(batch))

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """Like `__call__`, for rows that `Pack` has completed."""
        source, shard = batch["source"][0].as_py(), batch["shard"][0].as_py()
        run_dir, paths = self.config.run_dir, staged_shard(source, shard)
        staged = self._stage(batch, corpus_shard(source, shard), paths)
        if not run_dir.create(paths.record, encode(staged)):
            staged = decode_staged(run_dir.read(paths.record))
        records = msgspec.json.encode({"retry": staged}).decode()
        return table_of([{"source": source, "shard": shard, "records": records}], WRITTEN_SCHEMA)

    def _stage(self, batch: pa.Table, committed: ShardFiles, paths: ShardFiles) -> StagedShard:
        """Write the files of the next generation, if the status of a row has changed."""
        run_dir = self.config.run_dir
        record = run_dir.read(committed.record)
        parquet = run_dir.read(listed_file(committed, decode_commit(record), "parquet"))
        before = decode_corpus_table(parquet)
        after = corpus_table(batch)
        retried = retry_mask(before, self.config.classes)
        others = pc.invert(pa.array(retried))
        assert after.filter(others).equals(before.filter(others)), f"{committed.stem}: other rows changed"
        statuses = zip(after["status"].to_pylist(), retried, strict=True)
        staged = StagedShard(
            classes=self.config.classes,
            replaces=sha256(record),
            asked=sum(retried),
            status=dict(Counter(status for status, is_retried in statuses if is_retried)),
            files={},
            record=None,
        )
        if after["status"].equals(before["status"]):
            return staged
        # Names that no other attempt uses, because a record of another attempt may list its files already.
        attempt = uuid.uuid4().hex[:8]
        names, files = {}, []
        for suffix, data in encode_corpus_files(batch):
            final = f"{paths.name}.{suffix}"
            written = run_dir.put(f"{paths.stem}.{attempt}.{suffix}", data)
            names[final] = written.name
            files.append(FileEntry(final, written.bytes, written.sha256))
        return replace(staged, files=names, record=_next_record(decode_commit(record), batch, files))


def retry_mask(rows: pa.Table, classes: Sequence[str]) -> list[bool]:
    """For each row of a corpus shard whether its status is one of `classes`."""
    return [status in classes for status in rows["status"].to_pylist()]


def parse_retry_classes(option: str | None) -> tuple[str, ...]:
    """Sorted statuses of the option `--class a,b,c`; all retryable ones if it is not given.

    Raises:
        UnknownClass: a name is not a status of failed rows, or the option is empty.
    """
    allowed = [name for name in STATUSES if name != SUCCESS]
    if option is None:
        return tuple(sorted(name for name in allowed if STATUSES[name].retryable))
    names = {name.strip() for name in option.split(",") if name.strip()}
    unknown = sorted(names - set(allowed))
    if unknown or not names:
        problem = f"{', '.join(unknown)}: no such status" if unknown else "no status given"
        raise UnknownClass(f"--class: {problem}; allowed: {', '.join(allowed)}")
    return tuple(sorted(names))


def _check_files(run_dir: Store, paths: ShardFiles) -> None:
    for file in read_commit(run_dir, paths.record).files:
        name = paths.path(file.name)
        if sha256(run_dir.read(name)) != file.sha256:
            raise DamagedShard(
                f"{run_dir.address(name)} is not what was written; run capfilt verify --repair first"
            )


def _next_record(old: CommitRecord, batch: pa.Table, files: Sequence[FileEntry]) -> CorpusRecord:
    """Record of a shard's next generation; seconds and bytes of the new downloads are added to the old
    ones."""
    record = make_corpus_record(batch, old.fingerprint, files)
    total = Counter(old.seconds)
    total.update({stage: s for stage, s in record.seconds.items() if stage == "fetch"})
    before = old.received if isinstance(old, CorpusRecord) else UNSET
    received = UNSET if before is UNSET else before + (record.received or 0)
    return replace(record, seconds={stage: round(s, 3) for stage, s in total.items()}, received=received)
