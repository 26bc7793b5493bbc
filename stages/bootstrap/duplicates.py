"""One picture under many rows: which copies are too many, and what their candidates are told.

"Image not found" comes as a success, a million times, each with another text. Copies are counted over all web sources
by exact hash (sha256 of the bytes that came), by perceptual hash and by url (some give another picture each time); of a
picture with more than `max_copies` the first ones survive, in the order of `source/key`, whoever fetched them when. `pipeline.nodes.duplicates` counts; the tables it
leaves hold only what is over the limit, so that they fit into every worker.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Le

from capfilt.stages.rows import CANDIDATE_SCHEMA, with_column
from capfilt.stages.storage.layout import DUPLICATES
from capfilt.stages.storage.store import Store

FLAG = "duplicate_image"
"""Flag of a candidate whose image is a surplus copy."""

DUPLICATES_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),  # exact, perceptual or url
        ("hash", pa.string()),  # the first 32 hex digits of a sha256, a perceptual hash, or the md5 of a url
        ("copies", pa.int64()),
        ("first", pa.string()),
        ("last", pa.string()),
    ]
)
"""`first` and `last`: `source/key` of the first copy, and of the last one that survives (null: all do)."""

SURPLUS_SCHEMA = pa.schema(
    [("source", pa.string()), ("shard", pa.int64()), ("images", pa.int64()), ("texts", pa.int64())]
)

EXACT_DIGITS = 32
"""Hex digits of a sha256 that are compared: 128 bits."""
MIN_INFORMATIVE_BITS = 32
"""Set bits of a perceptual hash that tells something. Each of its 64 bits says whether a frequency is above their
median, so half of them are, unless many frequencies are equal: in flat, striped and symmetric pictures, which share a few
hashes however different they are. Those are compared by their bytes alone."""


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """What happens to web pictures that come again and again."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    policy: Literal["keep", "flag", "drop"] = "drop"
    """`drop`: surplus copies are flagged `duplicate_image` and have no verdict, so nothing trains on them and they are
    outside the noise ratio; `flag`: flagged only; `keep`: not looked for."""
    max_copies: Annotated[int, Ge(1), Le(100_000)] = 100
    """Copies of one picture, and rows with one url, that survive. A photograph that went round has tens; a placeholder has thousands."""
    perceptual: bool = True
    """Pictures with an equal perceptual hash are copies too (resized or compressed anew); it sees no colours."""


class Copies:
    """Which images are surplus copies.

    Args:
        pictures: rows of `DUPLICATES_SCHEMA`.
    """

    def __init__(self, pictures: Iterable[dict[str, Any]]) -> None:
        self._last = {(row["kind"], row["hash"]): row["last"] for row in pictures if row["last"] is not None}

    @classmethod
    def read(cls, run_dir: Store) -> Copies:
        """Of the table in a run directory."""
        table = pq.read_table(io.BytesIO(run_dir.read(DUPLICATES)), columns=["kind", "hash", "last"])
        return cls(table.to_pylist())

    def is_surplus(self, row: dict[str, Any]) -> bool:
        """For a row with `source`, `key`, `url`, `sha256` and `phash`."""
        place = f"{row['source']}/{row['key']}"
        hashes = (
            ("exact", (row["sha256"] or "")[:EXACT_DIGITS]),
            ("perceptual", row["phash"]),
            ("url", hashlib.md5((row["url"] or "").encode(), usedforsecurity=False).hexdigest()),
        )
        lasts = (self._last.get(found) for found in hashes)
        return any(last is not None and place > last for last in lasts)


def mark_candidates(table: pa.Table, copies: Copies, *, drop: bool, threshold: float) -> pa.Table:
    """Candidates (`CANDIDATE_SCHEMA`) with the flag on surplus copies and on no others.

    Args:
        drop: surplus copies lose their verdict; those that are none any more (the corpus has changed) get theirs back
            from the stored score.
        threshold: of the filter.
    """
    flags: list[list[str]] = []
    kept: list[bool | None] = []
    rows = table.select(["source", "key", "url", "sha256", "phash", "flags", "kept", "itm_prob"]).to_pylist()
    for row in rows:
        marked, surplus = FLAG in row["flags"], copies.is_surplus(row)
        flags.append([flag for flag in row["flags"] if flag != FLAG] + ([FLAG] if surplus else []))
        if surplus and drop:
            kept.append(None)
        elif marked and row["itm_prob"] is not None:
            kept.append(row["itm_prob"] >= threshold)
        else:
            kept.append(row["kept"])
    table = with_column(table, "flags", flags, CANDIDATE_SCHEMA.field("flags").type)
    return with_column(table, "kept", kept, pa.bool_())
