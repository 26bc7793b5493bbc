"""What it costs to judge a round again, to report on it and to export its texts, without a model.

    python -m benchmarks.verdicts                    # 1,000,000 candidates on the local disk

Makes a run directory with random scores, and calls `capfilt rejudge`, `capfilt report` and `capfilt export`
as a user does: seconds include the start of Python, memory is the peak of the process. Prints a line per
command and writes benchmarks/results/verdicts.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from hashlib import md5
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.parts.results import store_report
from capfilt.pipeline.config.load import dump_config, parse_config
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.rows import CANDIDATE_SCHEMA, CORPUS_SCHEMA
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, RowCounts, encode
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import ShardFiles, candidates_shard, corpus_shard
from capfilt.stages.storage.store import FileEntry, Store

ROOT = Path(__file__).parents[1]
IMAGES = 1000
"""Images of a shard; each has a web text and a synthetic text."""
TEXT = "a an the dog cat red blue photo of with on street tree house near two small big old new"
COMMANDS = {
    "rejudge": ["--name", "threshold", "--keep", "web: itm >= 0.7", "--keep", "synthetic: itm >= 0.5"],
    "rejudge_share": ["--name", "share", "--keep", "top 30% by itc per source", "--drop-flag", "degenerate"],
    "rejudge_text": ["--name", "text", "--keep", "words BETWEEN 3 AND 20 AND url LIKE '%host1%'"],
    "report": [],
    "report_set": ["--verdicts", "share"],
    "report_by": ["--by", "host,length"],
    "export_parquet": ["{out}", "--to", "parquet"],
    "export_uids": ["{out}", "--to", "datacomp-uids"],
}
"""Name of a measurement -> arguments of the command that the name begins with."""


def main() -> None:
    """Measures, and stores the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--candidates", type=int, default=1_000_000)
    parser.add_argument("--folder", help="Where the run directory is made; a temporary folder if not given.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        make_run(f"{folder}/run", options.candidates // (2 * IMAGES))
        measured = {name: measure(name, f"{folder}/run", words) for name, words in COMMANDS.items()}
    found = {
        "candidates": options.candidates,
        "commands": measured,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "duckdb": version("duckdb"),
        "pyarrow": version("pyarrow"),
    }
    store_report("verdicts", found)
    print(json.dumps({"candidates": options.candidates, "commands": measured}))


def make_run(run_dir: str, shards: int) -> None:
    """A run directory whose only round is bootstrapped."""
    config = parse_config(
        {
            "run": {"dir": run_dir},
            "sources": {"web": {"kind": "web", "rows": {"manifest": "none.parquet"}}},
            "captioner": {"checkpoint": "none"},
            "filter": {"checkpoint": "none"},
        },
        "benchmark",
    )
    store = Store(run_dir)
    ledger = Ledger(store)
    ledger.save_config(dump_config(config))
    for shard in range(shards):
        random = np.random.default_rng(shard)
        keys = np.array([f"{shard:06d}{image:05d}" for image in range(IMAGES)])
        hosts = random.integers(0, 5000, IMAGES)
        common: dict[str, Any] = {
            "key": keys,
            "url": np.array([f"http://host{n}.example/{shard}/{i}.jpg" for i, n in enumerate(hosts)]),
            "source": "web",
            "shard": shard,
            "width": 256,
            "height": 256,
            "sha256": np.array([f"{shard:06d}{i:058d}" for i in range(IMAGES)]),
        }
        texts = make_texts(random, 2 * IMAGES)
        write_corpus(store, shard, common | {"texts": [[text] for text in texts[::2]], "caption": texts[::2]})
        write_candidates(store, shard, common, texts, random)
    counts = {"rows": shards * IMAGES, "status": {"success": shards * IMAGES}}
    ledger.finish("bootstrap.1", {}, NodeResult("", counts=counts), 1.0)


def make_texts(random: np.random.Generator, number: int) -> list[str]:
    """Texts of 3 to 12 words."""
    words = random.choice(TEXT.split(), (number, 12))
    return [" ".join(row[:n]) for row, n in zip(words, random.integers(3, 13, number), strict=True)]


def write_corpus(store: Store, shard: int, values: dict[str, Any]) -> None:
    """A shard of the corpus without its images, but with uids as DataComp's pool has them."""
    uids = [md5(key.encode(), usedforsecurity=False).hexdigest() for key in values["key"]]
    schema = CORPUS_SCHEMA.append(pa.field("uid", pa.string()))
    file = write_table(
        store, corpus_shard("web", shard), values | {"status": "success", "uid": uids}, schema, IMAGES
    )
    rows = RowCounts(read=IMAGES, status={"success": IMAGES})
    record = CorpusRecord(
        source="web", shard=shard, fingerprint="0" * 16, files=(file,), rows=rows, texts=IMAGES
    )
    Path(store.path(corpus_shard("web", shard).record)).parent.mkdir(parents=True, exist_ok=True)
    Path(store.path(corpus_shard("web", shard).record)).write_bytes(encode(record))


def write_candidates(
    store: Store, shard: int, common: dict[str, Any], texts: list[str], random: np.random.Generator
) -> None:
    """A shard of candidates: web, synthetic, web, synthetic, ..."""
    number = 2 * IMAGES
    is_web = np.arange(number) % 2 == 0
    itm = random.random(number).astype(np.float32)
    kept = itm >= 0.5
    values = {
        name: np.repeat(value, 2) if isinstance(value, np.ndarray) else value
        for name, value in common.items()
    } | {
        "round": 1,
        "origin": np.where(is_web, "web", "synthetic"),
        "caption_index": 0,
        "text": texts,
        "itm_prob": itm,
        "itc_sim": random.uniform(-1, 1, number).astype(np.float32),
        "kept": kept,
        "threshold": 0.5,
        "flags": [["degenerate"] if each < 0.02 else [] for each in random.random(number)],
        "captioner": [None if web else "c" * 16 for web in is_web],
        "filter": "f" * 16,
        "version": 1,
    }
    place = candidates_shard(1, "web", shard)
    counts = {
        origin: {"kept": int(kept[own].sum()), "dropped": int((~kept[own]).sum())}
        for origin, own in (("synthetic", ~is_web), ("web", is_web))
    }
    record = CandidatesRecord(
        source="web",
        shard=shard,
        round=1,
        fingerprint="0" * 16,
        files=(write_table(store, place, values, CANDIDATE_SCHEMA, number),),
        rows=RowCounts(read=IMAGES, status={"success": IMAGES}),
        candidates=counts,
    )
    Path(store.path(place.record)).parent.mkdir(parents=True, exist_ok=True)
    Path(store.path(place.record)).write_bytes(encode(record))


def write_table(
    store: Store, place: ShardFiles, values: dict[str, Any], schema: pa.Schema, number: int
) -> FileEntry:
    """Write columns; one value stands for a column of equal values, an absent one for nulls."""
    columns = []
    for field in schema:
        value = values.get(field.name)
        is_column = isinstance(value, list | np.ndarray)
        columns.append(pa.array(value if is_column else [value] * number, field.type))
    return store.put(place.parquet, encode_parquet(pa.Table.from_arrays(columns, schema=schema)))


def measure(name: str, run_dir: str, words: list[str]) -> dict[str, float]:
    """Seconds and peak memory of a command."""
    arguments = [word.replace("{out}", f"{run_dir}-{name}") for word in words]
    command = [sys.executable, "-m", "pipeline", name.partition("_")[0], run_dir, *arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output
    found = {
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_gb": round(usage.ru_maxrss / 1e6, 3),
    }
    print(json.dumps({name: found}), flush=True)
    return found


if __name__ == "__main__":
    main()
