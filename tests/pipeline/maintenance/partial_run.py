"""A run whose corpus lacks some images at first, for the tests of `capfilt retry` and `capfilt verify`."""

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
from capfilt.pipeline.rundir.generations import find_replacements, publish
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.retry import RetryConfig
from capfilt.stages.storage.layout import corpus_shard
from capfilt.stages.storage.store import sha256
from tests.local_chain import run_local
from tests.runs import NO_RESULT, writable

SIZING = Sizing(ActorPool(1, 0.5, 0.0), ActorPool(1, 0.5, 0.0), ActorPool(1, 0.5, 0.0), 4, 0)
LATE_IMAGES = ("p1.png", "p4.png")
"""Images of shards 0 and 1 that do not exist when the corpus is fetched first."""


class PartialRun:
    """A run over a source of nine images in three shards, fetched while two images were missing.

    Args:
        folder: holds the manifest, the images and the run directory; paths in the config are relative to it.
        name: name of the run directory.
    """

    def __init__(self, folder, name="run"):
        self.folder, self.images, self.path = folder, folder / "images", folder / name
        self.config = parse_config(
            {
                "run": {"dir": str(self.path)},
                "sources": {
                    "web": {
                        "kind": "web",
                        "rows": {"manifest": "manifest.csv", "shard_size": 3},
                        "images": "images",
                    }
                },
                "fetch": {"image": {"min_side": 4}},
                "captioner": {"checkpoint": "c"},
                "filter": {"checkpoint": "f", "calibrate": {"pairs": 0}},
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
    def ledger(self):
        return self.run_dir.ledger

    def create(self):
        """Write the manifest and the images, fetch them, and record the later nodes as done."""
        self.images.mkdir()
        rows = [(f"p{i}.png", f"text {i}") for i in range(9)]
        with open(self.folder / "manifest.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("url", "caption"), *rows])
        for name, _ in rows:
            if name not in LATE_IMAGES:
                self.draw(name)
        self.fetch()
        for shard in range(3):  # the records that a bootstrap leaves
            self.store.put_json(f"records/rounds/1/web/{shard:06d}.json", {"shard": shard})
        for name in ("bootstrap.1", "report.1"):
            self.ledger.finish(name, {}, NO_RESULT, 1.0)

    def fetch(self, shards=3):
        """Cut the manifest and fetch the first shards."""
        build_index(self.config.sources["web"].rows, self.store / "manifests/web", source="web")
        context = RunContext(self.run_dir, progress=None, board=None, stop=None)
        self.run_chain(lambda configs: fetch_steps(context, configs, SIZING), range(shards))

    def draw(self, name):
        """Draw an image that the manifest lists."""
        Image.new("RGB", (8, 8), (30 * int(name[1]), 90, 200)).save(self.images / name)

    def run_chain(self, steps, shards):
        """Results of the last step for these shards, computed in this process."""
        with ExitStack() as stack:
            chain = steps(fetch_configs(self.config, ("web",), stack))
            return list(run_local([{"source": "web", "shard": shard} for shard in shards], chain))

    def stage(self, *classes, shards=(0, 1)):
        """Retry rows with these statuses and stage the result; the records of the staged shards."""
        config = RetryConfig(run_dir=self.store, classes=classes)
        results = self.run_chain(lambda configs: retry_steps(config, configs, SIZING), shards)
        return [json.loads(result["records"])["retry"] for result in results]

    def publish(self):
        """Publish what is staged."""
        run_dir = self.run_dir
        return publish(run_dir, find_replacements(run_dir))

    def statuses(self, shard):
        table = pq.read_table(self.path / f"corpus/web/{shard:06d}.parquet")
        return table["status"].to_pylist()

    def corpus(self):
        """{file name: content} of the corpus; the seconds in records, which vary, are left out."""
        files = {}
        paths = [
            p for folder in ("corpus", "images", "records/corpus") for p in self.path.glob(f"{folder}/web/0*")
        ]
        for path in paths:
            files[path.name] = path.read_bytes()
            if path.suffix == ".json":
                record = json.loads(path.read_bytes())
                files[path.name] = {key: value for key, value in record.items() if key != "seconds"}
        return files

    def check_readers(self):
        """Check that a reader finds whole files, and for every shard a record that fits its files, or no
        record."""
        for shard in range(3):
            place = corpus_shard("web", shard)
            path = self.path / place.record
            if path.exists():
                for file in json.loads(path.read_text())["files"]:
                    assert sha256((self.path / place.path(file["name"])).read_bytes()) == file["sha256"]
            with tarfile.open(self.path / place.tar) as tar:
                assert tar.getnames()
            pq.read_table(self.path / place.parquet)


def members(path):
    """{member name: content} of a tar."""
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}
