"""NEW FILE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from capfilt.stages.rows import SCHEMA_VERSION
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.store import Store, encode_json

SECONDS_PREFIX = "seconds_"
"""Columns of this prefix carry how long each stage took for the shard; they end in the record."""


def corpus_record(batch: pa.Table, fingerprint: str, files: list[dict[str, Any]]) -> dict[str, Any]:
    """Commit record of a corpus shard whose rows are `batch`."""
    return {
        "kind": "corpus",
        "source": batch["source"][0].as_py(),
        "shard": batch["shard"][0].as_py(),
        "version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "files": files,
        "rows": {"read": batch.num_rows, "status": dict(Counter(batch["status"].to_pylist()))},
        "texts": count_texts(batch),
        "seconds": stage_seconds(batch),
    }


def commit(store: Store, name: str, record: dict[str, Any]) -> Any:
    """Create the record; when another attempt was first, its record is the truth and is returned.

    Raises:
        AssertionError: rows were lost on the way: the shard's counts do not add up.
    """
    rows = record["rows"]
    assert rows["read"] == sum(rows["status"].values()), f"{name}: rows lost, {rows}"
    if store.create(name, encode_json(record)):
        return record
    return store.read_json(name)


def count_verdicts(candidates: Iterable[dict[str, Any]]) -> dict[str, dict[str, int]]:
    """{origin: {"kept" | "dropped" | "unjudged": candidates}}."""
    origins: dict[str, Counter[str]] = {}
    for row in candidates:
        verdict = {True: "kept", False: "dropped", None: "unjudged"}[row["kept"]]
        origins.setdefault(row["origin"], Counter())[verdict] += 1
    return {origin: dict(counts) for origin, counts in sorted(origins.items())}


def count_texts(batch: pa.Table) -> int:
    """Texts with words that belong to stored images: the pairs a training on the texts as they came sees."""
    rows = zip(batch["status"].to_pylist(), batch["texts"].to_pylist(), strict=True)
    return sum(bool(text.strip()) for status, texts in rows if status == SUCCESS for text in texts or [])


def stage_seconds(batch: pa.Table) -> dict[str, float]:
    """{stage: seconds it spent on this shard}, from the columns the engine added."""
    names = [n for n in batch.column_names if n.startswith(SECONDS_PREFIX)]
    return {n.removeprefix(SECONDS_PREFIX): round(batch[n][0].as_py(), 3) for n in names}
