"""A run whose corpus has copies of images; which of them are surplus is worked out by hand."""

from types import SimpleNamespace

import duckdb
from rich.console import Console

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.duplicates import (
    mark_round,
)
from capfilt.stages.rows import CANDIDATE_SCHEMA, ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.commit import count_verdicts, make_corpus_record
from capfilt.stages.shards.pack import Pack
from capfilt.stages.shards.records import CandidatesRecord, RowCounts, encode
from capfilt.stages.shards.write import encode_corpus_files, encode_parquet
from capfilt.stages.storage.layout import candidates_shard, corpus_shard
from capfilt.stages.storage.store import Store
from tests.runs import writable

A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)
PHASH, OTHER_PHASH, FLAT = "00000000ffffffff", "ffffffff00000000", "8" + "0" * 15
"""Perceptual hashes; FLAT has too few set bits to identify an image."""

# Shard → (sha256, phash) of each row. The source web2 comes after web, whichever is fetched first.
CORPUS = {
    ("web", 0): [(A, PHASH), (B, OTHER_PHASH), (A, PHASH), (None, None)],
    ("web", 1): [(A, PHASH), (C, PHASH), (D, FLAT), (D, FLAT)],
    ("web2", 0): [(A, PHASH), (D, FLAT), ("e" * 64, FLAT), ("f" * 64, FLAT)],
}
# With max_copies 2, the first two copies of A are kept: web/0/0 and web/0/2. PHASH (A and C) has the same
# first two, so C is surplus too. The first two copies of D are web/1/2 and web/1/3. FLAT identifies nothing.
# Of the url below, the third image is surplus: web/1/2 is kept, web2/0/3 is not.
SURPLUS_ROWS = {("web", 1): [0, 1], ("web2", 0): [0, 1, 3]}

# Rows whose url is the same, although it gave other images.
URLS = {
    ("web", 0, 1): "random?é",
    ("web", 0, 3): "random?é",
    ("web", 1, 2): "random?é",
    ("web2", 0, 3): "random?é",
}


def config_of(folder, **duplicates):
    source = {"kind": "web", "rows": {"manifest": "m.csv"}}
    return parse_config(
        {
            "run": {"dir": str(folder)},
            "sources": {"web": source, "web2": source, "clean": {**source, "kind": "human"}},
            "captioner": {"checkpoint": "c"},
            "filter": {"checkpoint": "f", "calibrate": {"pairs": 0}},
            "duplicates": {"max_copies": 2, **duplicates},
        },
        "test",
    )


def context_of(config):
    progress, stop = Progress(Console(quiet=True)), SimpleNamespace(requested=False)
    return RunContext(writable(config), progress=progress, board=None, stop=stop)


def url_of(source, shard, row):
    return f"http://a/{URLS.get((source, shard, row), f'{source}/{shard}/{row}')}"


def write_corpus(store, source, shard):
    rows = [
        {
            "key": row_key(shard, i),
            "source": source,
            "shard": shard,
            "url": url_of(source, shard, i),
            "caption": "t",
            "texts": ["t", "another", " "],
            "status": "success" if sha else "dns",
            "sha256": sha,
            "phash": phash,
            "image": b"\xff\xd8\xff" if sha else None,
        }
        for i, (sha, phash) in enumerate(CORPUS[source, shard])
    ]
    batch = table_of(rows, ROW_SCHEMA)
    place = corpus_shard(source, shard)
    encoded = encode_corpus_files(Pack()(batch))
    files = [store.put(place.path(f"{place.name}.{ending}"), data) for ending, data in encoded]
    store.put(place.record, encode(make_corpus_record(batch, "f", files)))


def write_candidates(store, source, shard):
    rows = []
    for i, (sha, phash) in enumerate(CORPUS[source, shard]):
        for origin, p in (("web", 0.25), ("synthetic", 0.75)) if sha else ():
            image = {
                "key": row_key(shard, i),
                "source": source,
                "shard": shard,
                "url": url_of(source, shard, i),
                "sha256": sha,
                "phash": phash,
            }
            verdict = {
                "itm_prob": p,
                "kept": p >= 0.5,
                "flags": ["degenerate"],
                "origin": origin,
                "text": "t",
            }
            rows.append(image | verdict | {"round": 1, "threshold": 0.5, "caption_index": 0})
    place = candidates_shard(1, source, shard)
    file = store.put(place.parquet, encode_parquet(table_of(rows, CANDIDATE_SCHEMA)))
    record = CandidatesRecord(
        source=source,
        shard=shard,
        round=1,
        fingerprint="f",
        files=(file,),
        rows=RowCounts(read=0, status={}),
        candidates=count_verdicts(rows),
    )
    store.put(place.record, encode(record))


def write_shards(folder, shards):
    store = Store(str(folder))
    for source, shard in shards:
        write_corpus(store, source, shard)
        write_candidates(store, source, shard)


def mark(context, *, fetched=True):
    """Mark the candidates of the first round."""
    return mark_round(context, context.run_dir.nodes["bootstrap.1"], fetched=fetched)


def marked_rows(context):
    """(source, shard, key) of the images with a marked candidate."""
    rows = duckdb.sql(
        f"SELECT DISTINCT source, shard, key FROM '{context.config.run.dir}/rounds/1/*/*.parquet' "
        "WHERE list_contains(flags, 'duplicate_image')"
    ).fetchall()
    return sorted(rows)


EXPECTED = sorted((s, n, row_key(n, i)) for (s, n), rows in SURPLUS_ROWS.items() for i in rows)
