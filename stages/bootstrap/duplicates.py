"""Surplus copies: rows whose image occurs too often in the web corpus.

A placeholder such as "image not found" is a successful download, with another text in each of a million rows.
Copies are counted over all web sources by sha256 of the downloaded bytes, by perceptual hash, and by url
(some urls give another image each time). Of an image with more than `max_copies` copies the first ones in the
order of `source/key` survive, independently of the order of downloads. `pipeline.nodes.duplicates` counts the
copies; its tables contain only images above the limit, so that they fit into the memory of each worker.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from annotated_types import Ge, Le

from capfilt.stages.rows import CANDIDATE_SCHEMA, with_column
from capfilt.stages.storage.layout import DUPLICATES
from capfilt.stages.storage.store import Store

DUPLICATE_IMAGE = "duplicate_image"
"""Flag of a candidate whose image is a surplus copy."""

DUPLICATES_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("hash", pa.string()),
        ("copies", pa.int64()),
        ("first", pa.string()),
        ("last", pa.string()),
    ]
)
"""One row per repeated hash: its kind (`exact`, `perceptual` or `url`), the hash (the first 32 hex digits of
a sha256, a perceptual hash, or the md5 of a url), the number of rows that have it, and the `source/key` of
the first copy and of the last copy that survives (null if all survive)."""

SURPLUS_SCHEMA = pa.schema(
    [("source", pa.string()), ("shard", pa.int64()), ("images", pa.int64()), ("texts", pa.int64())]
)
"""One row per shard that holds surplus copies: their number, and the number of their texts."""

EXACT_DIGITS = 32
"""Hex digits of a sha256 that are compared: 128 bits."""
MIN_INFORMATIVE_BITS = 32
"""Set bits of a perceptual hash that distinguishes images. Each of its 64 bits says whether a frequency is
above the median frequency, so half of them are set, unless many frequencies are equal: that is so in flat,
striped and symmetric images, which share a few hashes although they differ. Such images are compared by their
bytes only."""


@dataclass(frozen=True, kw_only=True)
class DuplicatesConfig:
    """What happens to web images that occur many times."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    policy: Literal["keep", "flag", "drop"] = "drop"
    """`drop`: surplus copies get the flag `duplicate_image` and no verdict, so that they are not used for
    training and do not count in the noise ratio; `flag`: they get the flag only; `keep`: copies are not
    counted."""
    max_copies: Annotated[int, Ge(1), Le(100_000)] = 100
    """Copies of one image, and rows with one url, that survive. A popular photograph has tens of copies, a
    placeholder thousands."""
    perceptual: bool = True
    """Images with equal perceptual hashes count as copies (resized or recompressed images). The hash ignores
    color."""


class SurplusCopies:
    """The images that are surplus copies.

    Args:
        repeated: rows of `DUPLICATES_SCHEMA`.
    """

    def __init__(self, repeated: Iterable[dict[str, Any]]) -> None:
        self._last_surviving = {
            (row["kind"], row["hash"]): row["last"] for row in repeated if row["last"] is not None
        }

    @classmethod
    def read(cls, run_dir: Store) -> SurplusCopies:
        """Read them from a run directory."""
        table = pq.read_table(io.BytesIO(run_dir.read(DUPLICATES)), columns=["kind", "hash", "last"])
        return cls(table.to_pylist())

    def contains(self, row: dict[str, Any]) -> bool:
        """Whether a row with `source`, `key`, `url`, `sha256` and `phash` is a surplus copy."""
        place = f"{row['source']}/{row['key']}"
        hashes = (
            ("exact", (row["sha256"] or "")[:EXACT_DIGITS]),
            ("perceptual", row["phash"]),
            ("url", hashlib.md5((row["url"] or "").encode(), usedforsecurity=False).hexdigest()),
        )
        lasts = (self._last_surviving.get(each) for each in hashes)
        return any(last is not None and place > last for last in lasts)


def mark_candidates(
    table: pa.Table, surplus: SurplusCopies, *, drop: bool, thresholds: Mapping[str, float]
) -> pa.Table:
    """Candidates (`CANDIDATE_SCHEMA`) with the flag `duplicate_image` on exactly the surplus copies.

    Args:
        table: the candidates, which may have flags from an earlier count.
        surplus: the surplus copies.
        drop: remove the verdicts of surplus copies. Candidates that are no longer surplus get theirs back.
        thresholds: the filter's threshold of each origin, for these verdicts.
    """
    flags: list[list[str]] = []
    kept: list[bool | None] = []
    rows = table.select(
        ["origin", "source", "key", "url", "sha256", "phash", "flags", "kept", "itm_prob"]
    ).to_pylist()
    for row in rows:
        was_surplus, is_surplus = DUPLICATE_IMAGE in row["flags"], surplus.contains(row)
        other_flags = [flag for flag in row["flags"] if flag != DUPLICATE_IMAGE]
        flags.append(other_flags + ([DUPLICATE_IMAGE] if is_surplus else []))
        if is_surplus and drop:
            kept.append(None)
        elif was_surplus and row["itm_prob"] is not None:
            kept.append(row["itm_prob"] >= thresholds[row["origin"]])
        else:
            kept.append(row["kept"])
    table = with_column(table, "flags", flags, CANDIDATE_SCHEMA.field("flags").type)
    return with_column(table, "kept", kept, pa.bool_())
