"""A run directory with records of shards that no worker has made, and a chain that makes the rest.

The driver of `benchmarks.driver` is the real one: it prepares the run, cuts the manifest, lists the records,
hands out shards, takes what comes back, counts copies and writes the record of the node. Only the chain is a
stub, which commits a shard without downloading or judging anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA, row_key
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, RowCounts, encode
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
from capfilt.stages.storage.store import FileEntry, Store

SOURCE = "web"
ROWS = 10
"""Rows of a shard. What the driver does for a shard does not depend on them, but for the count of copies."""
SUCCESSFUL = 8
"""Of these, images that were stored."""
PLACEHOLDER_EVERY = 500
"""One shard in so many has a placeholder image; from 100 copies on, the shards with more are marked."""


def make_config(run_dir: str, folder: str, options: Mapping[str, Any]) -> Config:
    """A bootstrap with given checkpoints, which also downloads.

    Args:
        folder: local folder with `manifest.parquet` and `model/`.
        options: fsspec options of the run directory.
    """
    return parse_config(
        {
            "run": {"dir": run_dir, "storage_options": dict(options)},
            "sources": {
                SOURCE: {
                    "kind": "web",
                    "rows": {"manifest": f"{folder}/manifest.parquet", "shard_size": ROWS},
                    "images": folder,
                }
            },
            "captioner": {"checkpoint": f"{folder}/model"},
            "filter": {"checkpoint": f"{folder}/model"},
        },
        "benchmark",
    )


def make_inputs(folder: str, shards: int) -> None:
    """Write the manifest of so many shards, and a small checkpoint."""
    from benchmarks.training import make_tokenizer
    from capfilt.models.checkpoints.load import save_checkpoint
    from capfilt.models.config import MedConfig, TextConfig, VisionConfig
    from capfilt.models.network.med import MED

    Path(folder).mkdir(parents=True, exist_ok=True)
    rows = shards * ROWS
    table = pa.table(
        {
            "url": [f"images/{number}.jpg" for number in range(rows)],
            "caption": [f"a picture of number {number}" for number in range(rows)],
        }
    )
    pq.write_table(table, f"{folder}/manifest.parquet")
    tokenizer = make_tokenizer()
    vision = VisionConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2)
    text = TextConfig(
        vocab_size=tokenizer.vocab_size, width=16, depth=1, heads=2, ffn=32, max_positions=64, dropout=0.0
    )
    save_checkpoint(f"{folder}/model", MED(MedConfig(vision=vision, text=text)), tokenizer, {})


@dataclass(frozen=True)
class StubShard:
    """A shard as a chain leaves it."""

    files: dict[str, bytes]
    """{path: content}: Parquet files, then records."""
    records: dict[str, CorpusRecord | CandidatesRecord]
    """What the last step of the chain returns."""


def write_records(store: Store, fingerprints: Fingerprints, shards: Iterable[int]) -> None:
    """Write these shards as workers would have left them, without flushing each file to the disk.

    The files of the candidates have rows only where copies will be marked; nothing else reads them.
    """
    for shard in shards:
        marked = shard % PLACEHOLDER_EVERY == 0
        for name, data in make_shard(fingerprints, shard, with_candidates=marked).files.items():
            if store.is_local:
                path = Path(store.path(name))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            else:
                store.put(name, data)


def commit_stubs(
    store: Store, fingerprints: Fingerprints, items: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Commit these shards with the writer's guarantees, and give what a chain returns for each."""
    for item in items:
        made = make_shard(fingerprints, item["shard"])
        for name, data in made.files.items():
            store.create(name, data)
        records = msgspec.json.encode(made.records).decode()
        yield {"source": SOURCE, "shard": item["shard"], "records": records, "seconds_write": 0.01}


def make_shard(fingerprints: Fingerprints, shard: int, *, with_candidates: bool = True) -> StubShard:
    """A shard with its records."""
    place, judged = corpus_shard(SOURCE, shard), candidates_shard(1, SOURCE, shard)
    files = {place.parquet: encode_parquet(corpus_rows(shard)), place.tar: b""}
    files[judged.parquet] = encode_parquet(candidate_rows(shard)) if with_candidates else b""
    counts = RowCounts(read=ROWS, status={"success": SUCCESSFUL, "timeout": ROWS - SUCCESSFUL})
    seconds = {"read": 0.1, "fetch": 9.5, "caption": 12.5, "filter": 4.25}
    common: dict[str, Any] = {"source": SOURCE, "shard": shard, "rows": counts, "seconds": seconds}
    record = CorpusRecord(
        **common,
        fingerprint=fingerprints.corpus(SOURCE),
        files=tuple(entry(name, files[name]) for name in (place.tar, place.parquet)),
        texts=SUCCESSFUL,
        received=SUCCESSFUL * 50_000,
    )
    judgement = CandidatesRecord(
        **common,
        fingerprint=fingerprints.of("bootstrap.1"),
        round=1,
        files=(entry(judged.parquet, files[judged.parquet]),),
        candidates={"synthetic": {"kept": 4, "dropped": 4}, "web": {"dropped": 4, "kept": 4}},
    )
    files |= {place.record: encode(record), judged.record: encode(judgement)}
    return StubShard(files, {"corpus": record, "candidates": judgement})


def entry(name: str, data: bytes) -> FileEntry:
    """A file as a record lists it."""
    return FileEntry(name.rpartition("/")[2], len(data), sha256(data).hexdigest())


def corpus_rows(shard: int) -> pa.Table:
    """Rows of a shard of the corpus; the first image of some shards is a placeholder."""
    numbers = range(shard * ROWS, (shard + 1) * ROWS)
    digests = [sha256(b"%d" % number).hexdigest() for number in numbers]
    if shard % PLACEHOLDER_EVERY == 0:
        digests[0] = sha256(b"placeholder").hexdigest()
    stored = [row < SUCCESSFUL for row in range(ROWS)]
    texts = [f"a picture of number {number}" for number in numbers]
    columns = {
        "key": [row_key(shard, row) for row in range(ROWS)],
        "source": [SOURCE] * ROWS,
        "shard": [shard] * ROWS,
        "url": [f"images/{number}.jpg" for number in numbers],
        "caption": texts,
        "texts": [[text] for text in texts],
        "status": ["success" if each else "timeout" for each in stored],
        "sha256": [digest if each else None for digest, each in zip(digests, stored, strict=True)],
        "phash": [digest[:16] if each else None for digest, each in zip(digests, stored, strict=True)],
    }
    return table_with(columns, CORPUS_SCHEMA)


def candidate_rows(shard: int) -> pa.Table:
    """A web text and a synthetic text for each stored image."""
    keys = [row_key(shard, row) for row in range(SUCCESSFUL) for _ in range(2)]
    number = len(keys)
    digests = corpus_rows(shard)["sha256"].to_pylist()[:SUCCESSFUL]
    columns = {
        "key": keys,
        "source": [SOURCE] * number,
        "shard": [shard] * number,
        "round": [1] * number,
        "origin": ["web", "synthetic"] * SUCCESSFUL,
        "caption_index": [0] * number,
        "text": [f"text {i}" for i in range(number)],
        "itm_prob": [0.6] * number,
        "itc_sim": [0.3] * number,
        "kept": [i % 4 < 2 for i in range(number)],
        "threshold": [0.5] * number,
        "flags": [[] for _ in keys],
        "sha256": [digest for digest in digests for _ in range(2)],
        "phash": [digest[:16] for digest in digests for _ in range(2)],
        "url": [f"images/{shard * ROWS + i // 2}.jpg" for i in range(number)],
    }
    return table_with(columns, CANDIDATE_SCHEMA)


def table_with(columns: Mapping[str, list[Any]], schema: pa.Schema) -> pa.Table:
    """These columns; absent ones are null."""
    rows = len(next(iter(columns.values())))
    return pa.Table.from_arrays(
        [pa.array(columns.get(field.name, [None] * rows), field.type) for field in schema], schema=schema
    )
