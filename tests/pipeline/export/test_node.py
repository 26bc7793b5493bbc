"""The node `export.<round>`: planned if the config asks for it, and resumable like the command."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.console.signals import StopSignal
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.export.node import check_seen_by_nodes
from capfilt.pipeline.metrics.run_metrics import RunMetrics
from capfilt.pipeline.plan import plan
from capfilt.stages.export.shard import ExportShard
from capfilt.stages.storage.layout import node_record
from capfilt.stages.storage.store import Store, StoreError
from tests.local_chain import run_local
from tests.local_run import IgnoringStatus, LocalContext
from tests.pipeline.export.exported_run import export, make_run
from tests.pipeline.metrics.received import Received
from tests.runs import walk
from tests.tiny import tiny_data


@pytest.fixture
def context_of(monkeypatch):
    """run directory → the context of a node, with chains that run in this process."""

    def run_here(items, steps, **options):
        return run_local(items, steps)

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", run_here)

    def make(run_dir):
        failed = SimpleNamespace(
            for_node=lambda node: IgnoringStatus(), failures=lambda node: {}, failed_shards=lambda node: set()
        )
        progress = Progress(Console(quiet=True))
        progress.begin("export.1")
        return LocalContext(run_dir, progress, failed, StopSignal(run_dir.store, 0, print))

    return make


def content(store, folder=""):
    names = (name for name in walk(store, folder) if not name.endswith("capfilt-export.json"))
    return {name.removeprefix(f"{folder}/"): store.read(name) for name in names}


def test_a_config_without_the_section_has_no_such_node(tmp_path):
    data = tiny_data(tmp_path, rounds=2)
    assert "export.2" not in plan(parse_config(data, "test"))
    nodes = plan(parse_config(data | {"export": {"to": "hf"}}, "test"))
    assert set(nodes["export.2"].needs) == {"fetch", "bootstrap.2"}
    assert "export.1" not in nodes


@pytest.mark.parametrize("form", ["webdataset", "parquet"])
def test_the_node_exports_into_the_run_directory_as_the_command_does(tmp_path, context_of, form):
    run_dir = make_run(tmp_path, export={"to": form, "human": True})
    node, received = run_dir.nodes["export.1"], Received()
    result = node.kind.run(replace(context_of(run_dir), metrics=RunMetrics(received)), node)
    assert result.outputs == ("exports/1",)
    # Tables without images are written by the driver itself.
    shards = [name for name in walk(run_dir.store, "exports/1") if name.endswith(".tar")]
    assert len(shards) == (5 if form == "webdataset" else 0)
    assert received.sum("capfilt_shards") == ({("export.1",): 5} if shards else {})
    spent = {stage: seconds for (_, stage), seconds in received.sum("capfilt_stage_seconds").items()}
    assert spent == pytest.approx(result.counts["stage_seconds"], abs=1e-3)
    export(run_dir, tmp_path / "out", form, human=True)
    assert content(run_dir.store, "exports/1") == content(Store(str(tmp_path / "out")))
    assert result.counts["images"] > 0 and set(result.counts["pairs"]) == {"human", "synthetic", "web"}


def test_a_place_of_its_own_is_no_folder_of_the_run(tmp_path, context_of):
    run_dir = make_run(tmp_path, export={"to": "hf", "out": str(tmp_path / "out")})
    node = run_dir.nodes["export.1"]
    assert node.kind.run(context_of(run_dir), node).outputs == ()
    assert (tmp_path / "out/README.md").exists() and not run_dir.store.exists("exports")


def test_shards_that_fail_fail_the_node_and_the_others_stay(tmp_path, context_of, monkeypatch):
    run_dir = make_run(tmp_path, export={"to": "hf"})
    node, original = run_dir.nodes["export.1"], ExportShard.export

    def fail_once(stage, source, shard):
        if (source, shard) == ("web", 1):
            raise ValueError("a damaged tar")
        return original(stage, source, shard)

    with monkeypatch.context() as patch:
        patch.setattr(ExportShard, "export", fail_once)
        with pytest.raises((NodeFailed, ValueError)):
            node.kind.run(context_of(run_dir), node)
    assert run_dir.store.exists("exports/1/records/data/000000.json")
    node.kind.run(context_of(run_dir), node)
    export(run_dir, tmp_path / "out", "hf")
    assert content(run_dir.store, "exports/1") == content(Store(str(tmp_path / "out")))
    assert not run_dir.store.exists(node_record("export.1"))  # the engine writes it, not the kind


def test_a_folder_that_another_node_of_the_cluster_does_not_see(tmp_path):
    out = Store(str(tmp_path))

    def elsewhere(function, store, probe, sights):
        return [("10.0.0.1", []), ("10.0.0.2", function(Store(str(tmp_path / "other")), probe, sights))]

    with pytest.raises(StoreError, match=r"^OUT: .* on 10\.0\.0\.2; use a folder that all nodes see$"):
        check_seen_by_nodes(out, 2, elsewhere)
    assert walk(out) == []
    check_seen_by_nodes(out, 1, elsewhere)
