"""A manifest as LAION publishes it, and its way through the stages without models and without Ray."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.rows import CANDIDATE_TYPE, with_column
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Provenance, Write, WriteConfig
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
from capfilt.stages.storage.store import Store

SCHEMA = pa.schema(
    [
        ("URL", pa.string()),
        ("TEXT", pa.large_string()),
        ("WIDTH", pa.int32()),
        ("HEIGHT", pa.int32()),
        ("similarity", pa.float64()),
        ("punsafe", pa.float32()),
        ("pwatermark", pa.float32()),
        ("LICENSE", pa.string()),
        ("key", pa.string()),
        ("status", pa.string()),
        ("hash", pa.int64()),
        ("seen", pa.timestamp("ns", tz="UTC")),
        ("tags", pa.list_(pa.string())),
    ]
)
RENAMED = {name: f"laion_{name}" for name in ("WIDTH", "HEIGHT", "key", "status")}
CARRIED = [RENAMED.get(name, name) for name in SCHEMA.names[2:]]


def laion_table(rows):
    """`rows` rows; every third has no similarity, every fifth a NaN in punsafe."""
    return pa.table(
        {
            "URL": [f"{i}.png" for i in range(rows)],
            "TEXT": [f"text {i}" for i in range(rows)],
            "WIDTH": [100 + i for i in range(rows)],
            "HEIGHT": [50 + i for i in range(rows)],
            "similarity": [None if i % 3 == 0 else i / 7 for i in range(rows)],
            "punsafe": [float("nan") if i % 5 == 0 else i / 9 for i in range(rows)],
            "pwatermark": [i / 11 for i in range(rows)],
            "LICENSE": ["?" if i % 2 else "cc-by" for i in range(rows)],
            "key": [f"{i:09d}" for i in range(rows)],
            "status": ["success"] * rows,
            "hash": [(-1) ** i * (2**62 + i) for i in range(rows)],
            "seen": pa.array([1_700_000_000_123_456_789 + i for i in range(rows)], SCHEMA.field("seen").type),
            "tags": [["a", f"t{i}"] if i % 4 else None for i in range(rows)],
        },
        schema=SCHEMA,
    )


def png(value):
    """A PNG of 320 x 300 pixels of one gray value."""
    sink = io.BytesIO()
    Image.new("RGB", (320, 300), (value, value, value)).save(sink, "PNG")
    return sink.getvalue()


def write_images(folder, rows):
    folder.mkdir()
    for i in range(rows):
        (folder / f"{i}.png").write_bytes(png(i))


def run_stages(run, manifest: ManifestConfig, images, judge=None):
    """Cut the manifest, and write corpus and candidates of every shard; returns (corpus, candidates).

    Args:
        judge: makes the candidates of a batch of rows; by default its first text, kept.
    """
    store = Store(str(run))
    index = build_index(manifest, store / "manifests/web", source="web")
    read = Read(ReadConfig(run_dir=store, manifests={"web": manifest}))
    fetch = Fetch(FetchConfig(image_root=str(images)))
    thresholds = {"web": 0.5, "synthetic": 0.5}
    provenance = Provenance(
        captioner="c", filter="f", top_p=0.9, top_k=0, repetition_penalty=1.0, thresholds=thresholds
    )
    write = Write(
        WriteConfig(
            run_dir=store,
            corpus_fingerprints={"web": "c"},
            round=1,
            round_fingerprint="r",
            provenance=provenance,
        )
    )
    for shard in range(index.shards):
        rows = fetch(read(pa.table({"source": ["web"], "shard": [shard]})))
        candidates = (judge or first_texts)(rows)
        write(with_column(rows, "candidates", candidates, pa.list_(CANDIDATE_TYPE)))
    paths = [
        [store.path(place("web", shard).parquet) for shard in range(index.shards)]
        for place in (corpus_shard, lambda source, shard: candidates_shard(1, source, shard))
    ]
    return tuple(pa.concat_tables(pq.read_table(path) for path in each) for each in paths)


def first_texts(rows):
    """One kept candidate for each text of each stored image."""
    return [
        [
            {"origin": "web", "caption_index": n, "text": text, "flags": [], "kept": True}
            for n, text in enumerate(texts)
        ]
        if status == SUCCESS
        else []
        for status, texts in zip(rows["status"].to_pylist(), rows["texts"].to_pylist(), strict=True)
    ]
