"""Types of the commit records `records/corpus/<source>/000012.json` and
`records/rounds/<r>/<source>/000012.json`.

A record lists the files of a shard with their sha256 and counts its rows. Records of earlier versions can be
read; unknown fields are ignored.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from capfilt.stages.rows import SCHEMA_VERSION
from capfilt.stages.storage.store import FileEntry, encode_json

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0)]


class RowCounts(Struct, frozen=True):
    """Numbers of rows of a shard: `read` is the sum of `status`."""

    read: Count
    status: dict[str, Count]
    """{status: rows}."""


class ShardRecord(Struct, kw_only=True, frozen=True):
    """Fields of both kinds of commit record."""

    source: str
    shard: int
    fingerprint: str
    files: tuple[FileEntry, ...]
    rows: RowCounts
    seconds: dict[str, Seconds] = {}
    """{stage: seconds it took for the shard}."""
    version: Annotated[int, Meta(ge=1)] = SCHEMA_VERSION


class CorpusRecord(ShardRecord, tag_field="kind", tag="corpus", kw_only=True, frozen=True):
    """Record of a corpus shard: images and rows."""

    texts: Count = 0
    """Texts of stored images that have at least one word."""
    unfit: dict[str, Count] | UnsetType = UNSET
    """{carried column: values of tar samples that do not fit its type}; absent if all do."""
    received: Count | UnsetType = UNSET
    """Bytes of the images as they came, also of those that were refused; absent where none came or the
    fetch stage does not tell, and in records of earlier versions."""


class CandidatesRecord(ShardRecord, tag_field="kind", tag="candidates", kw_only=True, frozen=True):
    """Record of a shard of candidates with scores and verdicts."""

    round: int
    candidates: dict[str, dict[str, Count]]
    """{origin: {"kept" | "dropped" | "unjudged": number of candidates}}."""
    duplicates: Count | UnsetType = UNSET
    """Candidates with the flag `duplicate_image`; absent before duplicates are marked."""

    @property
    def kept(self) -> int:
        """Number of candidates with the verdict "kept"."""
        return sum(verdicts.get("kept", 0) for verdicts in self.candidates.values())


class ExportRecord(ShardRecord, tag_field="kind", tag="export", kw_only=True, frozen=True):
    """Record of a shard of an export: `rows` counts the images of the shard that it is made of."""

    number: Count
    """Number of the exported shard; `shard` is that of the corpus shard in its source."""
    pairs: dict[str, Count]
    """{origin: exported texts}."""
    most: dict[str, Count]
    """{origin: most exported texts of one image}."""

    @property
    def texts(self) -> int:
        """Number of exported texts."""
        return sum(self.pairs.values())


CommitRecord = CorpusRecord | CandidatesRecord | ExportRecord


class StagedShard(Struct, kw_only=True, frozen=True):
    """Record `replacing/<source>/000012.json` of a corpus shard that will replace the committed one."""

    classes: tuple[str, ...]
    """Statuses of the rows that were downloaded again."""
    replaces: str
    """sha256 of the commit record to replace."""
    asked: int
    """Number of rows that were downloaded again."""
    status: dict[str, int]
    """{new status: rows} of the rows that were downloaded again."""
    files: dict[str, str]
    """{final file name: name in the staging folder}; empty if no row has changed."""
    record: CorpusRecord | None
    """The next commit record, None if no row has changed."""


def encode(record: Struct) -> bytes:
    """Canonical JSON of a record: equal records give equal bytes."""
    return encode_json(msgspec.to_builtins(record))


def decode_commit(data: bytes) -> CommitRecord:
    """A commit record of either kind.

    Raises:
        msgspec.DecodeError: the data are not JSON, or a field is missing or has another type.
    """
    record: CommitRecord = msgspec.json.decode(data, type=CommitRecord)
    return record


def decode_staged(data: bytes) -> StagedShard:
    """A record of a staged shard.

    Raises:
        msgspec.DecodeError: the data are not JSON, or a field is missing or has another type.
    """
    return msgspec.json.decode(data, type=StagedShard)
