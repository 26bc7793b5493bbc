"""Evaluates a policy on the candidates of a shard and writes the verdicts of a named set."""

from __future__ import annotations

import hashlib
import io

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.shards.attempts import listed_file
from capfilt.stages.shards.records import CandidatesRecord
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import candidates_shard, verdicts_shard
from capfilt.stages.storage.store import DECODE_ERRORS, Store, encode_json
from capfilt.stages.verdicts.policy import KEPT, Policy, complete, explain
from capfilt.stages.verdicts.sets import (
    VERDICTS_SCHEMA,
    VerdictSet,
    VerdictsRecord,
    candidates_digest,
    find_verdicts,
)


class Judge:
    """Writes the shards of one set. Each thread that judges needs an object of its own.

    Args:
        store: the run directory.
        found: the set, with its thresholds.
        policy: the policy of the set, parsed.
    """

    def __init__(self, store: Store, found: VerdictSet, policy: Policy) -> None:
        self.store, self.set, self.policy = store, found, policy
        self._query = f"SELECT {policy.expression(found.cuts)} AS verdict FROM {policy.relation('shard')}"
        # One thread, and rows in their order: verdicts are put beside the rows that they were made from.
        self._sql = duckdb.connect(config={"threads": 1, "enable_external_access": False})

    def find_done(self, record: CandidatesRecord) -> VerdictsRecord | None:
        """The record of the shard's verdicts, None unless they are those of this set on these candidates."""
        try:
            done = find_verdicts(self.store, self.set.name, self.set.round, record.source, record.shard)
        except DECODE_ERRORS:
            return None
        is_ours = done is not None and done.fingerprint == shard_fingerprint(self.set, record)
        return done if is_ours else None

    def judge(self, record: CandidatesRecord) -> VerdictsRecord:
        """Write the verdicts of a shard: the file first, then its record.

        Args:
            record: the commit record of the candidates.

        Raises:
            PolicyError: a condition fails on a candidate.
        """
        name, round_, source, shard = self.set.name, self.set.round, record.source, record.shard
        place = verdicts_shard(name, round_, source, shard)
        candidates = listed_file(candidates_shard(round_, source, shard), record, "parquet")
        verdicts = self.verdicts(self.store.read(candidates), source)
        # Without its record the old file does not count, whatever of the new one has been written.
        self.store.remove_file(place.record)
        done = VerdictsRecord(
            name=name,
            round=round_,
            source=source,
            shard=shard,
            fingerprint=shard_fingerprint(self.set, record),
            candidates=candidates_digest(record),
            file=self.store.put(place.parquet, encode_parquet(verdicts)),
            verdicts=count_table(verdicts),
        )
        self.store.put_json(place.record, msgspec.to_builtins(done))
        return done

    def verdicts(self, file: bytes, source: str) -> pa.Table:
        """The rows of the set for a Parquet file of candidates."""
        names = self.policy.read_columns
        schema = self.policy.columns.schema
        with pq.ParquetFile(io.BytesIO(file)) as parquet:
            present = set(parquet.schema_arrow.names)
            shard = parquet.read(columns=[name for name in names if name in present])
        shard = complete(shard, schema, names)
        self._sql.register("shard", shard)
        try:
            kept = self._sql.execute(self._query).to_arrow_table()["verdict"]
        except duckdb.Error as error:
            raise explain(f"the policy of {self.set.name}", error) from error
        finally:
            self._sql.unregister("shard")
        columns = {name: shard[name] for name in ("key", "origin", "captioner", "caption_index")}
        columns |= {"source": pa.array([source] * len(shard), pa.string()), KEPT: kept}
        return pa.Table.from_arrays([columns[n] for n in VERDICTS_SCHEMA.names], schema=VERDICTS_SCHEMA)


def shard_fingerprint(found: VerdictSet, record: CandidatesRecord) -> str:
    """Hash of a set and of the candidates of a shard: what the verdicts on them depend on."""
    return hashlib.sha256(encode_json([found.fingerprint, candidates_digest(record)])).hexdigest()[:16]


def count_table(verdicts: pa.Table) -> dict[str, dict[str, int]]:
    """`count_verdicts` of a table with the columns origin and kept, without a Python object per row."""
    groups = verdicts.group_by(["origin", KEPT]).aggregate([([], "count_all")]).to_pylist()
    names = {True: "kept", False: "dropped", None: "unjudged"}
    found: dict[str, dict[str, int]] = {}
    for group in sorted(groups, key=lambda group: group["origin"]):
        found.setdefault(group["origin"], {})[names[group[KEPT]]] = group["count_all"]
    return found
