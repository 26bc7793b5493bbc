"""What is shown of a node that streams shards: rows, or shards where nobody knows the rows before."""

from types import SimpleNamespace

import msgspec
import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.node import Node
from capfilt.pipeline.nodes.bootstrap import BOOTSTRAP
from capfilt.pipeline.nodes.shards import _Watch
from capfilt.stages.manifest.index import Index
from capfilt.stages.shards.records import CandidatesRecord, RowCounts


class Shown:
    def set_total(self, node, total, *, unit):
        self.total, self.unit = total, unit

    def advance(self, node, done, note=""):
        self.done, self.note = done, note


def watched(*files, rows, shards):
    """A watch over a source of which shard 0 is done, and what it shows."""
    data = {
        "run": {"dir": "r"},
        "sources": {"web": {"kind": "web", "rows": {"manifest": files[0], "shard_size": 100}}},
        "captioner": {"checkpoint": "c"},
        "filter": {"checkpoint": "f"},
    }
    ledger = SimpleNamespace(committed_shards=lambda folder: [0])
    run = SimpleNamespace(config=parse_config(data, "test"), ledger=ledger, progress=Shown())
    node = Node(name="bootstrap.1", kind=BOOTSTRAP, round=1, needs=(), sources=("web",))
    tars = sum(name.endswith(".tar") for name in files)
    indexes = {"web": Index(rows=rows, shards=shards, identity="", files=files, tars=tars)}
    return _Watch(run, node, indexes, {"web": "rounds/1/web"}), run.progress


def result(rows):
    record = CandidatesRecord(
        source="web",
        shard=1,
        round=1,
        fingerprint="f",
        files=(),
        rows=RowCounts(read=rows, status={"success": rows}),
        candidates={},
        seconds={"read": 2.0},
    )
    return {"records": msgspec.json.encode({"candidates": record}).decode()}


@pytest.mark.parametrize(
    ("files", "rows", "shards", "before", "after", "total", "unit"),
    [
        (("urls.csv",), 250, 3, 100, 150, 250, "rows"),
        (("a.tar", "b.tar", "c.tar"), 3, 3, 1, 2, 3, "shards"),
        (("a.tar", "urls.csv"), 151, 3, 1, 2, 3, "shards"),
    ],
)
def test_rows_or_shards(files, rows, shards, before, after, total, unit):
    watch, shown = watched(*files, rows=rows, shards=shards)
    assert (shown.done, shown.total, shown.unit) == (before, total, unit)
    watch(result(50))
    assert (shown.done, shown.note) == (after, "read 25/s")
