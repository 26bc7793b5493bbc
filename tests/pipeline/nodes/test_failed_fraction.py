"""`run.max_failed_fraction`: a source that fails wholesale ends its node, early or after its last shard."""

import csv

import pytest
from PIL import Image

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes import shards as shard_nodes
from capfilt.pipeline.nodes.fetch import run_fetch
from tests.local_chain import run_local
from tests.local_run import local_run
from tests.tiny import tiny_data

FOUND, MISSING, SHARD = 3, 9, 2
"""Pictures that are there, the others, and how many are a shard: the first shards are whole."""


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    """Runs the fetch node with this limit in this process; counts the shards that it goes through."""
    (tmp_path / "pictures").mkdir()
    with open(tmp_path / "web.csv", "w", newline="") as stream:
        rows = [(f"{i:02d}.png", f"text {i}") for i in range(FOUND + MISSING)]
        csv.writer(stream).writerows([("url", "caption"), *rows])
    for name, _ in rows[:FOUND]:
        Image.new("RGB", (32, 32), (200, 0, 0)).save(tmp_path / "pictures" / name)
    went = []

    def chain(items, steps, **_):
        for item in items:
            went.append(item["source"])
            yield from run_local([item], steps)

    monkeypatch.setattr(shard_nodes, "run_chain", chain)

    def call(limit, **web):
        data = tiny_data(tmp_path, max_failed_fraction=limit)
        rows = {"manifest": str(tmp_path / "web.csv"), "shard_size": SHARD}
        data["sources"]["web"] = {"kind": "web", "rows": rows, "images": str(tmp_path / "pictures")} | web
        run = local_run(parse_config(data, "c.yaml"))
        went.clear()
        run.progress.begin("fetch")
        return run_fetch(run, run.run_dir.nodes["fetch"]), went.count("web")

    return call


def test_at_the_limit_the_node_is_done(fetch):
    record, shards = fetch(MISSING / (FOUND + MISSING))
    assert shards == (FOUND + MISSING) // SHARD
    assert record.counts["by_source"]["web"] == {"success": FOUND, "missing_file": MISSING}


def test_above_it_fails_after_the_last_shard_and_a_higher_limit_goes_on_from_there(fetch):
    with pytest.raises(NodeFailed) as error:
        fetch(0.74)
    line = str(error.value)
    assert (
        "source web: 9 of 12 rows failed (9 missing_file), more than run.max_failed_fraction = 0.74" in line
    )
    assert "--fresh fetch, or raise the limit" in line and "\n" not in line
    with pytest.raises(NodeFailed):
        fetch(0.74)
    record, shards = fetch(0.75)
    assert shards == 0 and record.counts["by_source"]["web"]["missing_file"] == MISSING


def test_a_source_that_fails_wholesale_is_given_up_early(fetch, monkeypatch):
    monkeypatch.setattr(shard_nodes, "EARLY_ROWS", 6)
    monkeypatch.setattr(shard_nodes, "EARLY_SHARE", 0.0)
    with pytest.raises(NodeFailed, match=r"source web: 3 of 6 rows failed"):
        fetch(0.4)
    with pytest.raises(NodeFailed, match=r"source web: all 6 rows failed"):  # the next six are all missing
        fetch(0.4)


def test_no_limit_lets_a_source_pass_of_which_nothing_came(fetch, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(
        NodeFailed, match=r"source web: all 12 rows failed \(12 missing_file\); look at"
    ) as error:
        fetch(1.0, images=str(tmp_path / "none"))
    assert "raise the limit" not in str(error.value)
