"""What a commit record says: the typed form of `corpus/<source>/000012.json` and `rounds/<r>/<source>/000012.json`.

A record names the files of a shard with their sha256 and counts its rows. Records of earlier versions are read too;
fields that a version does not know are ignored. `encode` gives the canonical bytes that are written and compared.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from capfilt.stages.rows import SCHEMA_VERSION
from capfilt.stages.storage.store import FileEntry, encode_json


class RowCounts(Struct, frozen=True):
    """Rows of a shard: `read` equals the sum of `status`."""

    read: int
    status: dict[str, int]


class ShardRecord(Struct, kw_only=True, frozen=True):
    """What both kinds of commit record hold."""

    source: str
    shard: int
    fingerprint: str
    files: tuple[FileEntry, ...]
    rows: RowCounts
    seconds: dict[str, float] = {}
    """Seconds that each stage spent on the shard."""
    version: int = SCHEMA_VERSION


class CorpusRecord(ShardRecord, tag_field="kind", tag="corpus", kw_only=True, frozen=True):
    """A shard of images and rows."""

    texts: int = 0
    """Texts of stored images that have at least one word."""


class CandidatesRecord(ShardRecord, tag_field="kind", tag="candidates", kw_only=True, frozen=True):
    """A shard of judged candidates."""

    round: int
    candidates: dict[str, dict[str, int]]
    """{origin: {"kept" | "dropped" | "unjudged": candidates}}."""
    duplicates: int | UnsetType = UNSET
    """Candidates with the flag `duplicate_image`; absent until duplicates have been marked."""

    @property
    def kept(self) -> int:
        """Candidates with the verdict "kept"."""
        return sum(verdicts.get("kept", 0) for verdicts in self.candidates.values())


CommitRecord = CorpusRecord | CandidatesRecord


class StagedShard(Struct, kw_only=True, frozen=True):
    """`replacing/<source>/000012.json`: a corpus shard's next generation, ready to replace it."""

    classes: tuple[str, ...]
    """Statuses whose rows were downloaded again."""
    replaces: str
    """sha256 of the commit record that it replaces."""
    asked: int
    """Rows that were downloaded again."""
    status: dict[str, int]
    """Their statuses now."""
    files: dict[str, str]
    """Final file name → name in the staging folder; empty when no row changed."""
    record: CorpusRecord | None
    """The next commit record, None when no row changed."""


def encode(record: Struct) -> bytes:
    """Canonical JSON of a record: equal records give equal bytes."""
    return encode_json(msgspec.to_builtins(record))


def decode_commit(data: bytes) -> CommitRecord:
    """A commit record of either kind.

    Raises:
        msgspec.DecodeError: not JSON, or a field is missing or has another type.
    """
    record: CommitRecord = msgspec.json.decode(data, type=CommitRecord)
    return record


def decode_staged(data: bytes) -> StagedShard:
    """A staged shard.

    Raises:
        msgspec.DecodeError: not JSON, or a field is missing or has another type.
    """
    return msgspec.json.decode(data, type=StagedShard)


def as_json(record: Struct) -> dict[str, Any]:
    """A record as JSON-like data."""
    data: dict[str, Any] = msgspec.to_builtins(record)
    return data
