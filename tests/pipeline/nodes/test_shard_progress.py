"""The progress of a node on its shards, and the early end of a node most of whose rows fail."""

from types import SimpleNamespace

import msgspec
import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.metrics.run_metrics import RunMetrics
from capfilt.pipeline.node import Node
from capfilt.pipeline.nodes.bootstrap import BOOTSTRAP
from capfilt.pipeline.nodes.shards import ShardProgress, describe_source_without_texts
from capfilt.stages.manifest.index import Index, build_index
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, RowCounts
from capfilt.stages.storage.store import Store
from tests.pipeline.metrics.received import Received
from tests.stages.shards.test_odd_tars import make_tar


class Display:
    """Receives what a node shows."""

    def set_total(self, node, total, *, unit):
        self.total, self.unit = total, unit

    def advance(self, node, done):
        self.done = done

    def describe(self, node, note):
        self.note = note


def progress_of(*files, rows, shards, committed=(0,), other_rows=0, column=None, **run):
    """The progress over the source "web" and the display that it writes to.

    Args:
        files: of the manifest.
        committed: shards that are done before.
        other_rows: rows of a second source.
        column: the caption column.
    """
    rows_section = {"manifest": files[0], "shard_size": 100, "caption_column": column}
    sources = {"web": {"kind": "web", "rows": rows_section}}
    tars = sum(name.endswith(".tar") for name in files)
    indexes = {"web": Index(rows=rows, shards=shards, identity="", files=files, tars=tars)}
    if other_rows:
        sources["other"] = sources["web"]
        indexes["other"] = Index(rows=other_rows, shards=1, identity="", files=files, tars=0)
    data = {
        "run": {"dir": "r", **run},
        "sources": sources,
        "captioner": {"checkpoint": "c"},
        "filter": {"checkpoint": "f", "calibrate": {"pairs": 0}},
    }
    ledger = SimpleNamespace(committed_shards=lambda folder: list(committed))
    config, metrics = parse_config(data, "test"), RunMetrics(Received())
    context = SimpleNamespace(config=config, ledger=ledger, progress=Display(), metrics=metrics)
    node = Node(name="bootstrap.1", kind=BOOTSTRAP, round=1, needs=(), sources=tuple(indexes))
    return ShardProgress(context, node, indexes, dict.fromkeys(indexes, "rounds/1")), context.progress


def result(rows, status="success"):
    """What the chain returns for a shard with this many rows, all with the same status."""
    counts = RowCounts(read=rows, status={status: rows})
    common = {"source": "web", "shard": 1, "fingerprint": "f", "files": (), "rows": counts}
    corpus = CorpusRecord(**common, seconds={"fetch": 9.0})
    texts = {"web": {"kept": rows // 2, "dropped": rows - rows // 2}}
    candidates = CandidatesRecord(**common, round=1, candidates=texts, seconds={"read": 2.0})
    records = msgspec.json.encode({"corpus": corpus, "candidates": candidates}).decode()
    return {"records": records, "seconds_write": 3.0}


@pytest.mark.parametrize(
    ("files", "rows", "shards", "before", "after", "total", "unit"),
    [
        (("urls.csv",), 250, 3, 100, 150, 250, "rows"),
        (("a.tar", "b.tar", "c.tar"), 3, 3, 1, 2, 3, "shards"),
        (("a.tar", "urls.csv"), 151, 3, 1, 2, 3, "shards"),
    ],
)
def test_progress_counts_rows_or_shards_if_there_are_tars(files, rows, shards, before, after, total, unit):
    progress, display = progress_of(*files, rows=rows, shards=shards)
    assert (display.done, display.total, display.unit) == (before, total, unit)
    progress(result(50))
    assert display.done == after
    throughput = progress.throughput
    assert (throughput.rows, throughput.images, dict(throughput.seconds)) == (50, 50, {"read": 2, "write": 3})
    assert "images/s  success 100.0%  kept web 50.0%" in display.note({})


def test_a_finished_shard_is_counted_once_by_status_verdict_and_stage():
    """Rows and seconds of a shard that is downloaded and judged in one pass are those of the candidates."""
    progress, _ = progress_of("urls.csv", rows=250, shards=3)
    for _ in range(2):
        progress(result(50))
    received = progress.context.metrics.receiver
    assert received.sum("capfilt_shards") == {("bootstrap.1",): 2}
    assert received.sum("capfilt_rows") == {("bootstrap.1", "success"): 100}
    verdicts = {("bootstrap.1", "web", "kept"): 50, ("bootstrap.1", "web", "dropped"): 50}
    assert received.sum("capfilt_texts") == verdicts
    assert received.sum("capfilt_stage_seconds") == {("bootstrap.1", "read"): 4, ("bootstrap.1", "write"): 6}


def test_last_shard_may_be_smaller():
    assert progress_of("urls.csv", rows=250, shards=3, committed=(0, 1, 2))[1].done == 250


def fail_rows(progress, rows):
    """Count shards with failed rows only, of 100 rows each."""
    for _ in range(rows // 100):
        progress(result(100, "dns"))
    if rows % 100:
        progress(result(rows % 100, "dns"))


@pytest.mark.parametrize(
    ("rows", "other_rows", "early"),
    [
        (6_000, 0, 5_000),  # small node: 5,000 rows
        (150_000, 0, 5_000),
        (250_000, 0, 5_000),  # 2% are 5,000 rows
        (400_000, 0, 8_000),  # large node: 2% of its rows
        (100_000, 300_000, 8_000),
    ],
)
def test_node_ends_early_once_enough_rows_of_a_source_have_failed(rows, other_rows, early):
    shape = {"rows": rows, "shards": rows // 100, "committed": (), "other_rows": other_rows}
    progress, _ = progress_of("urls.csv", **shape)
    fail_rows(progress, early - 1)
    with pytest.raises(NodeFailed, match=rf"source web: all {early} rows failed"):
        progress(result(1, "dns"))


def test_node_does_not_end_early_at_the_limit_of_failed_rows():
    progress, _ = progress_of("urls.csv", rows=20_000, shards=200, committed=(), max_failed_fraction=0.5)
    for _ in range(30):
        progress(result(100))
    fail_rows(progress, 3_000)
    with pytest.raises(NodeFailed, match=r"source web: 3001 of 6001 rows failed"):
        progress(result(1, "dns"))


def test_source_of_tars_without_texts_is_named_with_what_it_has(tmp_path):
    """A source whose caption column is `none` lacks nothing."""
    (tmp_path / "a.tar").write_bytes(make_tar(("0.jpg", b"i"), ("0.json", b'{"caption": 7}')))
    tar = {"rows": 1, "shards": 1, "committed": ()}
    for column, expected in (("none", []), (None, ["web"])):
        progress, _ = progress_of(str(tmp_path / "a.tar"), **tar, column=column)
        assert progress.without_texts() == []
        progress(result(1))
        assert progress.without_texts() == expected
    store = Store(str(tmp_path / "run"))
    rows = progress.context.config.sources["web"].rows
    index = build_index(rows, store / "manifests/web", source="web")
    context = SimpleNamespace(store=store, config=progress.context.config)
    line = describe_source_without_texts(context, "web", index)
    assert line.startswith("sources.web: none of its images has a text: the members of file://")
    assert "the keys caption, of which caption has numbers, which are no texts" in line
    (tmp_path / "a.tar").unlink()
    assert describe_source_without_texts(context, "web", index) == (
        "sources.web: none of its images has a text; set sources.web.rows.caption_column, or set it to none "
        "if that is meant"
    )
