"""A source some of whose pictures are missing at first, for the tests of `capfilt retry`."""

import csv
import json
import tarfile
from contextlib import ExitStack

import pyarrow.parquet as pq
from PIL import Image

from capfilt.cluster.sizing import ActorPool, Sizing
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.nodes.chain import fetch_configs, fetch_steps, retry_steps
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.rundir.generations import publish, staged_shards
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.retry import RetryConfig
from capfilt.stages.storage.store import sha256
from tests.local_chain import run_local
from tests.runs import DONE, writable

SIZING = Sizing(ActorPool(1, 0.5, 0.0), ActorPool(1, 0.5, 0.0), ActorPool(1, 0.5, 0.0), 4, 0)
LATE = ("p1.png", "p4.png")
"""Pictures of shards 0 and 1 that are not there at first."""


class Scene:
    """A source of nine pictures in three shards, fetched while two of them were missing."""

    def __init__(self, folder, run="run"):
        self.folder, self.pictures, self.run = folder, folder / "pictures", folder / run
        self.config = parse_config(
            {
                "run": {"dir": str(self.run)},
                "sources": {
                    "web": {
                        "kind": "web",
                        "rows": {"manifest": "manifest.csv", "shard_size": 3},
                        "images": "pictures",
                    }
                },
                "fetch": {"image": {"min_side": 4}},
                "captioner": {"checkpoint": "c"},
                "filter": {"checkpoint": "f"},
            },
            "test",
        )

    @property
    def run_dir(self):
        return writable(self.config)

    @property
    def store(self):
        return self.run_dir.store

    @property
    def nodes(self):
        return self.run_dir.nodes

    @property
    def ledger(self):
        return self.run_dir.ledger

    def make(self):
        self.pictures.mkdir()
        rows = [(f"p{i}.png", f"text {i}") for i in range(9)]
        with open(self.folder / "manifest.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("url", "caption"), *rows])
        for name, _ in rows:
            if name not in LATE:
                self.draw(name)
        self.fetch()
        for shard in range(3):  # as a bootstrap leaves them
            self.store.put_json(f"rounds/1/web/{shard:06d}.json", {"shard": shard})
        for name in ("bootstrap.1", "report.1"):
            self.ledger.finish(name, {}, DONE, 1.0)

    def fetch(self, shards=3):
        build_index(self.config.sources["web"].rows, self.store / "corpus/web/index", source="web")
        context = RunContext(self.run_dir, progress=None, board=None, stop=None)
        self.go(lambda configs: fetch_steps(context, configs, SIZING), range(shards))

    def draw(self, name):
        Image.new("RGB", (8, 8), (30 * int(name[1]), 90, 200)).save(self.pictures / name)

    def go(self, steps, shards):
        with ExitStack() as stack:
            made = steps(fetch_configs(self.config, ("web",), stack))
            return list(run_local([{"source": "web", "shard": s} for s in shards], made))

    def stage(self, *classes, shards=(0, 1)):
        config = RetryConfig(run_dir=self.store, classes=classes)
        results = self.go(lambda configs: retry_steps(config, configs, SIZING), shards)
        return [json.loads(result["records"])["retry"] for result in results]

    def publish(self):
        run_dir = self.run_dir
        return publish(run_dir, staged_shards(run_dir))

    def statuses(self, shard):
        table = pq.read_table(self.run / f"corpus/web/{shard:06d}.parquet")
        return table["status"].to_pylist()

    def files(self):
        """{name: content} of the corpus, without times."""
        found = {}
        for path in sorted((self.run / "corpus/web").glob("0*")):
            found[path.name] = path.read_bytes()
            if path.suffix == ".json":
                found[path.name] = {k: v for k, v in json.loads(path.read_bytes()).items() if k != "seconds"}
        return found

    def check_readers(self):
        """Each shard has no record, or one that its files agree with; every file is whole."""
        for shard in range(3):
            path = self.run / f"corpus/web/{shard:06d}.json"
            if path.exists():
                for file in json.loads(path.read_text())["files"]:
                    assert sha256((path.parent / file["name"]).read_bytes()) == file["sha256"]
            with tarfile.open(path.with_suffix(".tar")) as tar:
                assert tar.getnames()
            pq.read_table(path.with_suffix(".parquet"))


def images_in(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}
