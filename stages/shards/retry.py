"""Failed rows of a corpus shard, asked for once more: read → fetch → write, and the corpus stays as it is.

What comes out is the shard's next generation, staged below `replacing/<source>/`: files under names of their own, then a
record `000012.json`, created exclusively and last. `pipeline.rundir.generations` puts it in the shard's place.
"""

from __future__ import annotations

import io
import json
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.stages.rows import CORPUS_SCHEMA, ROW_SCHEMA, table_of, with_column
from capfilt.stages.shards.commit import corpus_record
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.read import STOP_FILE, read_corpus_shard
from capfilt.stages.shards.write import WRITTEN_SCHEMA, corpus_files
from capfilt.stages.status import PENDING, STATUSES, SUCCESS
from capfilt.stages.storage.store import Store, encode_json, sha256

STAGING = "replacing"
"""Folder of the run directory with shards that are ready to be replaced."""


class UnknownClass(ValueError):
    """A status that no failed row has; the message lists those there are."""


class DamagedShard(ValueError):
    """A corpus shard is not what its record says; writing it anew would hide that."""


@dataclass(frozen=True, kw_only=True)
class RetryConfig:
    """Which rows are asked for again."""

    run: Store
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
        if self.config.run.exists(STOP_FILE):
            return table_of([], ROW_SCHEMA)
        (item,) = batch.to_pylist()
        corpus, shard = self.config.run / f"corpus/{item['source']}", item["shard"]
        for file in corpus.read_json(f"{shard:06d}.json")["files"]:
            if sha256(corpus.read(file["name"])) != file["sha256"]:
                raise DamagedShard(
                    f"{corpus.address(file['name'])} is not what was written; run capfilt verify --repair first"
                )
        rows = read_corpus_shard(corpus, shard)
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
            AssertionError: a row that was not asked for is not as it was.
        """
        source, shard = batch["source"][0].as_py(), batch["shard"][0].as_py()
        corpus, staging = self.config.run / f"corpus/{source}", self.config.run / f"{STAGING}/{source}"
        name = f"{shard:06d}"
        kept = corpus.read(f"{name}.json")
        before = pq.read_table(io.BytesIO(corpus.read(f"{name}.parquet")), schema=CORPUS_SCHEMA)
        now = batch.select(CORPUS_SCHEMA.names).cast(CORPUS_SCHEMA)
        again = is_retried(before, self.config.classes)
        untouched = pc.invert(pa.array(again))
        assert now.filter(untouched).equals(before.filter(untouched)), f"{source}/{name}: other rows changed"
        outcome = Counter(s for s, a in zip(now["status"].to_pylist(), again, strict=True) if a)
        staged: dict[str, Any] = {
            "classes": list(self.config.classes),
            "replaces": sha256(kept),
            "asked": sum(again),
            "status": dict(outcome),
            "files": {},
            "record": None,
        }
        if not now["status"].equals(before["status"]):
            attempt = uuid.uuid4().hex[
                :8
            ]  # never the files of another attempt, whose record may stand already
            files = []
            for ending, data in corpus_files(batch):
                written = staging.put(f"{name}.{attempt}.{ending}", data)
                staged["files"][f"{name}.{ending}"] = written["name"]
                files.append(written | {"name": f"{name}.{ending}"})
            old = json.loads(kept)
            record = corpus_record(batch, old["fingerprint"], files)
            total = Counter(old["seconds"])
            total.update({stage: s for stage, s in record["seconds"].items() if stage == "fetch"})
            staged["record"] = record | {"seconds": {stage: round(s, 3) for stage, s in total.items()}}
        if not staging.create(f"{name}.json", encode_json(staged)):
            staged = staging.read_json(f"{name}.json")
        records = json.dumps({"retry": staged})
        return table_of([{"source": source, "shard": shard, "records": records}], WRITTEN_SCHEMA)


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
