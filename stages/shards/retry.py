"""Failed rows of a corpus shard, asked for once more: read → fetch → write, and the corpus stays as it is.

What comes out is the shard's next generation, staged below `replacing/<source>/`: files under names of their own, then a
record `000012.json`, created exclusively and last. `pipeline.rundir.generations` puts it in the shard's place.
"""

from __future__ import annotations

import io
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from msgspec.structs import replace

from capfilt.stages.errors import UserError
from capfilt.stages.rows import CORPUS_SCHEMA, ROW_SCHEMA, table_of, with_column
from capfilt.stages.shards.commit import corpus_record, read_commit
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.read import read_corpus_shard
from capfilt.stages.shards.records import (
    CommitRecord,
    CorpusRecord,
    StagedShard,
    decode_commit,
    decode_staged,
    encode,
)
from capfilt.stages.shards.write import WRITTEN_SCHEMA, corpus_files
from capfilt.stages.status import PENDING, STATUSES, SUCCESS
from capfilt.stages.storage.layout import STOP_FILE, ShardFiles, corpus_shard, staged_shard
from capfilt.stages.storage.store import FileEntry, Store, sha256


class UnknownClass(UserError):
    """A status that no failed row has; the message lists those there are."""


class DamagedShard(ValueError):
    """A corpus shard is not what its record says; writing it anew would hide that."""


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """Which rows are asked for again."""

    run_dir: Store
    """The run directory."""
    classes: tuple[str, ...]
    """Statuses (names in `stages.status`), sorted."""


class ReadFailed:
    """Turns {"source", "shard"} into the rows of that committed corpus shard, those of the chosen classes pending again
    and without an outcome, the others as they are."""

    def __init__(self, config: RetryConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row {"source", "shard"} in, the shard's rows (`ROW_SCHEMA`) out; none once the run is to stop.

        Raises:
            DamagedShard: a file is not what the record says.
        """
        if self.config.run_dir.exists(STOP_FILE):
            return table_of([], ROW_SCHEMA)
        (item,) = batch.to_pylist()
        run_dir, place = self.config.run_dir, corpus_shard(item["source"], item["shard"])
        for file in read_commit(run_dir, place.record).files:
            name = f"{place.folder}/{file.name}"
            if sha256(run_dir.read(name)) != file.sha256:
                raise DamagedShard(
                    f"{run_dir.address(name)} is not what was written; run capfilt verify --repair first"
                )
        rows = read_corpus_shard(run_dir, place)
        again = is_retried(rows, self.config.classes)
        for name in (
            "error_message",
            "width",
            "height",
            "original_width",
            "original_height",
            "sha256",
            "phash",
        ):
            known = rows[name].to_pylist()
            values = [None if a else v for a, v in zip(again, known, strict=True)]
            rows = with_column(rows, name, values, ROW_SCHEMA.field(name).type)
        status = [PENDING if a else s for a, s in zip(again, rows["status"].to_pylist(), strict=True)]
        return with_column(rows, "status", status, pa.string())


class StageRetried:
    """Ends the rows: stages the shard's next generation if a row of it has another status now."""

    def __init__(self, config: RetryConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One shard in; one row (`WRITTEN_SCHEMA`) out, its records {"retry": what was staged}.

        Raises:
            AssertionError: a row that was not asked for is not as it was.
        """
        return self.shardwise(Pack()(batch))

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """As the call, for rows that are packed.

        Raises:
            AssertionError: a row that was not retried has changed.
        """
        source, shard = batch["source"][0].as_py(), batch["shard"][0].as_py()
        run_dir, place = self.config.run_dir, staged_shard(source, shard)
        staged = self._stage(batch, corpus_shard(source, shard), place)
        if not run_dir.create(place.record, encode(staged)):
            staged = decode_staged(run_dir.read(place.record))
        written = msgspec.json.encode({"retry": staged}).decode()
        return table_of([{"source": source, "shard": shard, "records": written}], WRITTEN_SCHEMA)

    def _stage(self, batch: pa.Table, committed: ShardFiles, place: ShardFiles) -> StagedShard:
        """Write the files of the next generation, if a row has another status now."""
        run_dir = self.config.run_dir
        record = run_dir.read(committed.record)
        before = pq.read_table(io.BytesIO(run_dir.read(committed.parquet)), schema=CORPUS_SCHEMA)
        now = batch.select(CORPUS_SCHEMA.names).cast(CORPUS_SCHEMA)
        again = is_retried(before, self.config.classes)
        others = pc.invert(pa.array(again))
        assert now.filter(others).equals(before.filter(others)), f"{committed.stem}: other rows changed"
        staged = StagedShard(
            classes=self.config.classes,
            replaces=sha256(record),
            asked=sum(again),
            status=dict(Counter(s for s, a in zip(now["status"].to_pylist(), again, strict=True) if a)),
            files={},
            record=None,
        )
        if now["status"].equals(before["status"]):
            return staged
        # Names of this attempt only: another attempt's record may list its own files already.
        attempt = uuid.uuid4().hex[:8]
        names, files = {}, []
        for suffix, data in corpus_files(batch):
            final = f"{place.name}.{suffix}"
            written = run_dir.put(f"{place.stem}.{attempt}.{suffix}", data)
            names[final] = written.name
            files.append(FileEntry(final, written.bytes, written.sha256))
        return replace(staged, files=names, record=_next_record(decode_commit(record), batch, files))


def _next_record(old: CommitRecord, batch: pa.Table, files: Sequence[FileEntry]) -> CorpusRecord:
    """Record of a shard's next generation; the seconds of the new downloads are added to the old ones."""
    record = corpus_record(batch, old.fingerprint, files)
    total = Counter(old.seconds)
    total.update({stage: s for stage, s in record.seconds.items() if stage == "fetch"})
    return replace(record, seconds={stage: round(s, 3) for stage, s in total.items()})


def is_retried(rows: pa.Table, classes: Sequence[str]) -> list[bool]:
    """Which rows of a corpus shard have a status of these classes."""
    return [status in classes for status in rows["status"].to_pylist()]


def retry_classes(given: str | None) -> tuple[str, ...]:
    """Statuses of `--class a,b,c`, sorted; every retryable one when it is not given.

    Raises:
        UnknownClass: a name that is no status of a failed row, or none at all.
    """
    allowed = [name for name in STATUSES if name != SUCCESS]
    if given is None:
        return tuple(sorted(name for name in allowed if STATUSES[name].retryable))
    names = {name.strip() for name in given.split(",") if name.strip()}
    wrong = sorted(names - set(allowed))
    if wrong or not names:
        said = f"{', '.join(wrong)}: no such status" if wrong else "no status is named"
        raise UnknownClass(f"--class: {said}; allowed: {', '.join(allowed)}")
    return tuple(sorted(names))
