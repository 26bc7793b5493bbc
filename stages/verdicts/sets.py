"""Named sets of verdicts: their records, and how to read them.

The set `default` is the column `kept` of the candidates: what the run decided. Every other set has a Parquet
file beside each file of candidates, with one row per candidate in the same order, and belongs to exactly
these candidates: when they are replaced, the set is stale until `capfilt rejudge` has made it again.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable
from typing import Annotated

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta, Struct

from capfilt.stages.errors import UserError
from capfilt.stages.shards.records import CandidatesRecord, Count
from capfilt.stages.storage.layout import (
    DEFAULT_VERDICTS,
    RECORD_SUFFIX,
    VERDICTS,
    records_folder,
    verdict_set_record,
    verdicts_shard,
)
from capfilt.stages.storage.store import DECODE_ERRORS, FileEntry, Store, encode_json
from capfilt.stages.verdicts.policy import KEPT, Cut
from capfilt.stages.verdicts.rules import PolicyText

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Names of sets."""
VERSION = 1

VERDICTS_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("source", pa.string()),
        ("origin", pa.string()),
        ("captioner", pa.string()),
        ("caption_index", pa.int32()),
        ("kept", pa.bool_()),
    ]
)
"""`verdicts/<name>/<round>/<source>/000012.parquet`: one row per row of the candidates, in the same order."""

VerdictCounts = dict[str, dict[str, Count]]
"""{origin: {"kept" | "dropped" | "unjudged": number of candidates}}."""


class VerdictSetError(UserError):
    """A set of verdicts is missing, unfinished, damaged or stale; the message says which command helps."""


class VerdictsRecord(Struct, frozen=True, kw_only=True):
    """`records/verdicts/<name>/<round>/<source>/000012.json`: a shard of a set, written after its file."""

    name: str
    round: int
    source: str
    shard: int
    fingerprint: str
    """Hash of the policy, its thresholds, and the candidates."""
    candidates: str
    """sha256 of the file of candidates."""
    file: FileEntry
    verdicts: VerdictCounts
    version: Annotated[int, Meta(ge=1)] = VERSION


class VerdictSet(Struct, frozen=True, kw_only=True):
    """`records/verdicts/<name>/<round>.json`: a set on the candidates of one round.

    It is written before the first shard, so that the name is taken, and again when the last one is done.
    """

    name: str
    round: int
    policy: PolicyText
    cuts: tuple[Cut, ...] = ()
    """The thresholds that shares have become."""
    candidates: str
    """Digest of the round's candidates (`digest_candidates`)."""
    is_done: bool = False
    shards: Count = 0
    verdicts: VerdictCounts = {}
    """Sum over the shards, once the set is done."""
    version: Annotated[int, Meta(ge=1)] = VERSION

    @property
    def fingerprint(self) -> str:
        """Hash of what the verdicts depend on, apart from the candidates of a shard."""
        parts = [msgspec.to_builtins(self.policy), msgspec.to_builtins(self.cuts), self.version]
        return hashlib.sha256(encode_json(parts)).hexdigest()[:16]


def read_set(store: Store, name: str, round_: int) -> VerdictSet | None:
    """The description of a set, None if there is none.

    Raises:
        VerdictSetError: the description is damaged.
    """
    place = verdict_set_record(name, round_)
    data = store.find(place)
    try:
        return None if data is None else msgspec.json.decode(data, type=VerdictSet)
    except DECODE_ERRORS as error:
        raise VerdictSetError(
            f"{store.address(place)}: damaged ({error}); capfilt verify {store.url} --repair removes it"
        ) from error


def list_sets(store: Store, round_: int | None = None) -> list[tuple[str, int]]:
    """(name, round) of every set of a run directory, also of unfinished ones; of one round if it is given."""
    folder, found = records_folder(VERDICTS), []
    for name in store.list(folder):
        for file in store.list(f"{folder}/{name}", suffix=RECORD_SUFFIX):
            number = file.removesuffix(RECORD_SUFFIX)
            if number.isdigit() and round_ in (None, int(number)):
                found.append((name, int(number)))
    return sorted(found)


def open_set(store: Store, name: str, round_: int) -> VerdictSet:
    """The description of a set that is complete.

    Raises:
        VerdictSetError: the run has no such set, or it is not complete.
    """
    found = read_set(store, name, round_)
    if found is not None and found.is_done:
        return found
    if found is not None:
        raise VerdictSetError(
            f"verdict set {name} of round {round_} is not complete; finish it with "
            f"{rejudge_command(store, found)}"
        )
    names = [DEFAULT_VERDICTS, *(each for each, _ in list_sets(store, round_))]
    raise VerdictSetError(
        f"round {round_} of {store.url} has no verdict set {name}; it has {', '.join(names)}. "
        f'Make one with capfilt rejudge {store.url} --name {name} --round {round_} --keep "itm >= 0.7"'
    )


def check_current(store: Store, found: VerdictSet, records: Iterable[CandidatesRecord]) -> None:
    """Check that a set was made from the present candidates of its round.

    Args:
        records: the commit records of the candidates, by source and shard.

    Raises:
        VerdictSetError: candidates have been replaced since.
    """
    if digest_candidates(records) != found.candidates:
        raise VerdictSetError(
            f"verdict set {found.name}: the candidates of round {found.round} have changed since it was "
            f"made; make it again with {rejudge_command(store, found)}"
        )


def rejudge_command(store: Store, found: VerdictSet) -> str:
    """The command that finishes a set or makes it again: the set knows its own policy."""
    return f"capfilt rejudge {store.url} --name {found.name} --round {found.round}"


def digest_candidates(records: Iterable[CandidatesRecord]) -> str:
    """Digest of the candidates of a round: sources, shards, and the content of the files."""
    digest = hashlib.sha256()
    for record in records:
        hashes = [file.sha256 for file in record.files]
        digest.update(encode_json([record.source, record.shard, hashes]))
    return digest.hexdigest()


def find_verdicts(store: Store, name: str, round_: int, source: str, shard: int) -> VerdictsRecord | None:
    """The record of a shard of a set, None if it is absent.

    Raises:
        msgspec.DecodeError: the record is damaged.
    """
    data = store.find(verdicts_shard(name, round_, source, shard).record)
    return None if data is None else msgspec.json.decode(data, type=VerdictsRecord)


def read_kept(store: Store, name: str, record: CandidatesRecord, candidates: pa.Table) -> pa.ChunkedArray:
    """The column `kept` of a shard of candidates in a named set.

    Args:
        store: the run directory.
        name: the set; "default" is the column that the candidates have.
        record: the commit record of the shard of candidates.
        candidates: all rows of the shard's file, in its order; for the set "default" with `kept`.

    Returns:
        bool, null where there is no verdict; one per row of `candidates`.

    Raises:
        VerdictSetError: the set has no such shard, or made it from other candidates.
    """
    if name == DEFAULT_VERDICTS:
        return candidates[KEPT]
    done = read_verdicts(store, name, record)
    place = verdicts_shard(name, record.round, record.source, record.shard)
    table = pq.read_table(io.BytesIO(store.read(place.path(done.file.name))), columns=[KEPT])
    return table[KEPT]


def read_verdicts(store: Store, name: str, record: CandidatesRecord) -> VerdictsRecord:
    """The record of a set's verdicts on a shard of candidates.

    Args:
        record: the commit record of the shard of candidates.

    Raises:
        VerdictSetError: the set has no such shard, or made it from other candidates.
    """
    place = verdicts_shard(name, record.round, record.source, record.shard)
    advice = f"make the set again with capfilt rejudge {store.url} --name {name} --round {record.round}"
    done = find_verdicts(store, name, record.round, record.source, record.shard)
    if done is None:
        raise VerdictSetError(f"verdict set {name}: {place.stem} is missing; {advice}")
    if done.candidates != candidates_digest(record):
        raise VerdictSetError(f"verdict set {name}: {place.stem} has other candidates now; {advice}")
    return done


def candidates_digest(record: CandidatesRecord) -> str:
    """sha256 of the file of a shard of candidates."""
    return next(file.sha256 for file in record.files if file.name.endswith(".parquet"))
