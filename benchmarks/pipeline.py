"""From a url list to captioned, scored Parquet: `capfilt run` against img2dataset and Ray with transformers.

    python -m benchmarks.pipeline --size base --images 96 --repeats 1

Both sides are whole processes that start their own Ray, alternate, and get the same server, urls, weights and
cores. Both cut the list into shards of `--shard` images, so that both keep all cores busy as they do with a
long list. Our side leaves out the calibration of the filter, of which the script has nothing.

One url in ten is of the kind that a list of the web holds: a page in place of an image, a truncated image, no
image at all. The other side is benchmarks/parts/pipeline_script.py. The last line is one JSON object with
`theirs_over_ours`, and for each side its seconds, its peak memory (proportional set size of all its
processes), and `without_trace`, the rows of which no file of its output says what became of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import torch
import yaml
from transformers import (
    BertTokenizerFast,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipImageProcessor,
    BlipProcessor,
)

from benchmarks.parts.blip_models import ModelOptions, build_model
from benchmarks.parts.image_server import addresses, make_images, serve_images
from benchmarks.parts.results import describe_machine, store_report

HOSTS = 20
IMAGE_SIZE = 384
BROKEN_EVERY = 10
PAGE = b"<!doctype html><title>Gone</title><p>This image is not available."
SAMPLE_SECONDS = 0.5


def make_list(count: int) -> tuple[list[bytes], list[str]]:
    """What the server sends for each url, and the texts.

    The last of every ten is broken: in turn a page, a truncated image, and a name that the server refuses.
    """
    images = make_images(count, (400, 1200))
    for number in range(BROKEN_EVERY - 1, count, BROKEN_EVERY):
        kind = number // BROKEN_EVERY % 3
        images[number] = PAGE if kind == 0 else images[number][: len(images[number]) // 3]
    texts = [" ".join(f"w{(7 * number + k) % 500}" for k in range(6 + number % 6)) for number in range(count)]
    return images, texts


def list_urls(port: int, count: int) -> list[str]:
    """The urls of `make_list`."""
    names = [str(number) for number in range(count)]
    for number in range(BROKEN_EVERY - 1, count, BROKEN_EVERY):
        if number // BROKEN_EVERY % 3 == 2:
            names[number] = f"missing-{number}"
    hosts = addresses(HOSTS)
    return [f"http://{hosts[number % HOSTS]}:{port}/{name}.jpg" for number, name in enumerate(names)]


def build_models(size: str, folder: Path) -> None:
    """Captioner and filter with random weights, in the layout of transformers that both sides read."""
    torch.manual_seed(0)
    model = ModelOptions(size=size, image_size=IMAGE_SIZE, device="cpu", precision="float32")
    kinds = {"captioner": BlipForConditionalGeneration, "filter": BlipForImageTextRetrieval}
    for name, kind in kinds.items():
        (folder / name).mkdir()
        build_model(kind, model, folder / name)
        images = BlipImageProcessor(size={"height": IMAGE_SIZE, "width": IMAGE_SIZE})
        words = BertTokenizerFast(str(folder / name / "vocab.txt"))
        BlipProcessor(images, words).save_pretrained(folder / name)


def write_config(folder: Path, models: Path, shard: int) -> Path:
    """The config of our side."""
    rows = {"manifest": str(folder / "urls.parquet"), "shard_size": shard}
    config = {
        "run": {"dir": str(folder / "run"), "name": "pipeline"},
        "sources": {"web": {"kind": "web", "rows": rows}},
        "fetch": {
            "allow_private": addresses(HOSTS),
            "per_host_per_second": None,
            "image": {"min_side": 64, "resize": "shorter", "size": IMAGE_SIZE},
        },
        "captioner": {
            "checkpoint": str(models / "captioner"),
            "generate": {"precision": "bfloat16", "sampling": {"min_new_tokens": 1, "max_new_tokens": 16}},
        },
        "filter": {
            "checkpoint": str(models / "filter"),
            "judge": {"itm_token": "cls", "precision": "bfloat16"},
            "calibrate": {"pairs": 0},
        },
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def run_ours(folder: Path, models: Path, shard: int) -> tuple[list[str], Path]:
    """The command of our side, and the folder of its result."""
    config = write_config(folder, models, shard)
    return [sys.executable, "-m", "pipeline", "run", str(config)], folder / "run"


def run_theirs(folder: Path, models: Path, shard: int) -> tuple[list[str], Path]:
    """The command of the other side, and the folder of its result."""
    out = folder / "out"
    arguments = [folder / "urls.parquet", out, models / "captioner", models / "filter", shard]
    return [sys.executable, "-m", "benchmarks.parts.pipeline_script", *map(str, arguments)], out


def count_ours(result: Path) -> Counter[str]:
    """Our rows by status."""
    table = ds.dataset(result / "corpus/web", format="parquet").to_table(columns=["status"])
    return Counter(table["status"].to_pylist())


def count_theirs(result: Path) -> Counter[str]:
    """Their rows: "success" if they are scored, else the status that img2dataset gave them."""
    files = sorted((result / "images").glob("*.parquet"))
    fetched = Counter(
        pa.concat_tables([pq.read_table(f, columns=["status"]) for f in files])["status"].to_pylist()
    )
    scored = ds.dataset(result / "scored", format="parquet").count_rows()
    lost = fetched["success"] - scored
    fetched["success"] = scored
    return fetched if not lost else fetched + Counter({"fetched and not scored": lost})


def measure(command: list[str], log: Path) -> dict[str, float]:
    """Run a side; its seconds, and the largest sum of the memory of its processes in GB."""
    start, peak = time.perf_counter(), 0
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, sum(map(read_pss, descendants(process.pid))))
            time.sleep(SAMPLE_SECONDS)
    seconds = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")
    return {"seconds": round(seconds, 2), "peak_gb": round(peak / 1e9, 2)}


def descendants(pid: int) -> list[int]:
    """A process and all that it has started (Linux)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):  # it has ended
                continue
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def read_pss(pid: int) -> int:
    """Bytes of a process, with its part of the pages that it shares; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Measure both sides in turn, and store and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=["tiny", "base"], default="base")
    parser.add_argument("--images", type=int, default=96, help="urls of the list")
    parser.add_argument("--shard", type=int, default=16, help="images of a shard")
    parser.add_argument("--repeats", type=int, default=1, help="alternating runs of both sides")
    options = parser.parse_args()
    sides = {"ours": (run_ours, count_ours), "theirs": (run_theirs, count_theirs)}
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    images, texts = make_list(options.images)
    with tempfile.TemporaryDirectory() as scratch, serve_images(images) as server:
        models = Path(scratch)
        build_models(options.size, models)
        urls = list_urls(server.port, options.images)
        for repeat in range(options.repeats):
            for name in sorted(sides, reverse=bool(repeat % 2)):
                prepare, count = sides[name]
                folder = models / f"{name}-{repeat}"
                folder.mkdir()
                pq.write_table(pa.table({"url": urls, "caption": texts}), folder / "urls.parquet")
                command, result = prepare(folder, models, options.shard)
                found = measure(command, folder / "log")
                rows = count(result)
                runs[name].append(
                    found | {"rows": dict(rows), "without_trace": options.images - rows.total()}
                )
                print(f"{name:6} {runs[name][-1]}", flush=True)
    report(options, runs)


def report(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Store the result and print it as one line."""
    median = {name: statistics.median(run["seconds"] for run in each) for name, each in runs.items()}
    machine = describe_machine("cpu") | {"cores": len(os.sched_getaffinity(0))}
    document = {
        "options": vars(options),
        "machine": machine,
        "seconds": median,
        "theirs_over_ours": round(median["theirs"] / median["ours"], 3),
        "runs": runs,
    }
    store_report(f"pipeline-cpu-{options.size}", document)
    print(json.dumps(document))


if __name__ == "__main__":
    main()
