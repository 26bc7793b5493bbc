"""`run.max_failed_fraction`: too many failed rows of a source end its node, early or after the last shard."""

import csv

import pytest
from PIL import Image

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes import shards
from capfilt.pipeline.nodes.fetch import run_fetch
from tests.local_chain import run_local
from tests.local_run import local_run
from tests.tiny import tiny_data

FOUND, MISSING, SHARD_SIZE = 3, 9, 2
"""Images that exist and that do not. The first shard has no missing image."""


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Runs the fetch node with this limit in this process; returns its result and the number of shards of the
    source "web" that it has processed."""
    (tmp_path / "images").mkdir()
    with open(tmp_path / "web.csv", "w", newline="") as stream:
        rows = [(f"{i:02d}.png", f"text {i}") for i in range(FOUND + MISSING)]
        csv.writer(stream).writerows([("url", "caption"), *rows])
    for name, _ in rows[:FOUND]:
        Image.new("RGB", (32, 32), (200, 0, 0)).save(tmp_path / "images" / name)
    processed = []

    def run_chain(items, steps, **_):
        for item in items:
            processed.append(item["source"])
            yield from run_local([item], steps)

    monkeypatch.setattr(shards, "run_chain", run_chain)

    def call(limit, **web):
        data = tiny_data(tmp_path, max_failed_fraction=limit)
        rows = {"manifest": str(tmp_path / "web.csv"), "shard_size": SHARD_SIZE}
        data["sources"]["web"] = {"kind": "web", "rows": rows, "images": str(tmp_path / "images")} | web
        context = local_run(parse_config(data, "c.yaml"))
        processed.clear()
        context.progress.begin("fetch")
        return run_fetch(context, context.run_dir.nodes["fetch"]), processed.count("web")

    return call


def test_node_is_done_at_the_limit(fetch):
    result, count = fetch(MISSING / (FOUND + MISSING))
    assert count == (FOUND + MISSING) // SHARD_SIZE
    assert result.counts["by_source"]["web"] == {"success": FOUND, "missing_file": MISSING}


def test_node_fails_above_the_limit_after_the_last_shard_and_a_higher_limit_resumes_it(fetch):
    with pytest.raises(NodeFailed) as error:
        fetch(0.74)
    line = str(error.value)
    assert (
        "source web: 9 of 12 rows failed (9 missing_file), more than run.max_failed_fraction = 0.74" in line
    )
    assert "--fresh fetch, or raise the limit" in line and "\n" not in line
    with pytest.raises(NodeFailed):
        fetch(0.74)
    result, count = fetch(0.75)
    assert count == 0 and result.counts["by_source"]["web"]["missing_file"] == MISSING


def test_node_ends_early_if_most_rows_fail(fetch, monkeypatch):
    monkeypatch.setattr(shards, "EARLY_ROWS", 6)
    monkeypatch.setattr(shards, "EARLY_SHARE", 0.0)
    with pytest.raises(NodeFailed, match=r"source web: 3 of 6 rows failed"):
        fetch(0.4)
    with pytest.raises(NodeFailed, match=r"source web: all 6 rows failed"):  # the other six rows
        fetch(0.4)


def test_source_without_any_image_fails_whatever_the_limit(fetch, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(NodeFailed, match=r"source web: all 12 rows failed \(12 missing_file\)") as error:
        fetch(1.0, images=str(tmp_path / "none"))
    assert "raise the limit" not in str(error.value)
