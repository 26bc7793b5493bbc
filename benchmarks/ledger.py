"""What it costs to find out where a run stands: listing its shards, and adding up their records.

    python -m benchmarks.ledger                     # 100,000 shards on the local disk

The other side is the plain way, by which img2dataset reads its `_stats.json` files: `fs.glob`, then
`json.load` of an `fs.open` for one file after the other. Both sides read the same files in turn, after one
round that fills the cache. Prints a line per round and writes benchmarks/results/ledger.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fsspec

from benchmarks.parts.results import store_report
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.storage.layout import records_folder
from capfilt.stages.storage.store import Store, encode_json

SOURCE = "corpus/web"


def main() -> None:
    """Measures, and stores the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_records(Path(folder) / records_folder(SOURCE), options.shards)
        rounds = [measure(folder) for _ in range(1 + options.repeats)][1:]
    median = {name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]}
    ratio = {what: round(median[f"plain_{what}"] / median[what], 2) for what in ("list", "add_up")}
    found = {
        "shards": options.shards,
        "seconds": median,
        "times_faster": ratio,
        "rounds": rounds,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "fsspec": version("fsspec"),
    }
    store_report("ledger", found)
    print(json.dumps({"seconds": median, "times_faster": ratio}))


def make_records(folder: Path, shards: int) -> None:
    """Records of so many committed corpus shards; their other files are in other folders."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        record = {
            "kind": "corpus",
            "source": "web",
            "shard": shard,
            "version": 1,
            "fingerprint": "0" * 16,
            "files": [
                {"name": f"{shard:06d}.{end}", "bytes": 0, "sha256": "0" * 64} for end in ("tar", "parquet")
            ],
            "rows": {"read": 1000, "status": {"success": 700, "timeout": 200, "http_404": 100}},
            "texts": 1000,
            "seconds": {"read": 0.1, "fetch": 10.0, "write": 0.5},
        }
        (folder / f"{shard:06d}.json").write_bytes(encode_json(record))


def measure(folder: str) -> dict[str, float]:
    """Seconds of one round: each act ours and plainly."""
    ledger, fs = Ledger(Store(folder)), fsspec.filesystem("file")
    seconds: dict[str, float] = {}

    def timed(name: str, act: Any) -> Any:
        start = time.perf_counter()
        value = act()
        seconds[name] = round(time.perf_counter() - start, 3)
        return value

    def plain_sum() -> int:
        total = 0
        for path in fs.glob(f"{folder}/{records_folder(SOURCE)}/*.json"):
            with fs.open(path) as stream:
                total += json.load(stream)["rows"]["read"]
        return total

    shards = timed("list", lambda: ledger.committed_shards(SOURCE))
    names = timed("plain_list", lambda: fs.glob(f"{folder}/{records_folder(SOURCE)}/*.json"))
    rows = timed("add_up", lambda: sum(record.rows.read for record in ledger.records(SOURCE)))
    plain_rows = timed("plain_add_up", plain_sum)
    assert len(shards) == len(names) and rows == plain_rows, "both sides found the same"
    print(json.dumps(seconds), flush=True)
    return seconds


if __name__ == "__main__":
    main()
