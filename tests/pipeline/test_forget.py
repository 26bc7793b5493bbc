"""`--fresh`: what goes, and that a kill in between leaves nothing that could be taken for another config's work."""

import json
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.prepare import forget
from capfilt.pipeline.rundir.ledger import Ledger, LedgerError
from capfilt.stages.storage.store import Store
from tests.runs import DONE, walk, writable
from tests.tiny import tiny_data

OLD, NEW = {"filter": {"judge": {"threshold": 0.5}}}, {"filter": {"judge": {"threshold": 0.6}}}
SHARDS = "rounds/1/web"


class Killed(Exception):
    pass


def judged(run, shards=3):
    """A bootstrap that is done."""
    for shard in range(shards):
        run.put(f"{SHARDS}/{shard:06d}.parquet", b"rows")
        run.put_json(f"{SHARDS}/{shard:06d}.json", {"shard": shard})
    Ledger(run).finish("bootstrap.1", OLD, DONE, 1.0)


def killed_after(monkeypatch, owner, names, steps):
    """Calls of these functions raise once so many of them are done."""
    done = []

    def breaking(original):
        def call(*args, **kwargs):
            if len(done) == steps:
                raise Killed
            done.append(1)
            return original(*args, **kwargs)

        return call

    for name in names:
        monkeypatch.setattr(owner, name, breaking(getattr(owner, name)))


@pytest.mark.parametrize("steps", range(8))
def test_wherever_it_is_broken_off_no_shard_counts_for_a_changed_config(tmp_path, monkeypatch, steps):
    run = Store(str(tmp_path / "run"))
    ledger = Ledger(run)
    judged(run)
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killed_after(patched, Path, ["unlink"], steps if steps < 3 else 99)
        killed_after(patched, Store, ["put", "remove", "remove_file"], steps - 3 if steps >= 3 else 99)
        ledger.forget("bootstrap.1", [SHARDS])
        raise Killed
    names = set(run.list(SHARDS))
    for shard in ledger.committed_shards(SHARDS):  # what counts is whole
        assert f"{shard:06d}.parquet" in names
    try:
        new = ledger.state("bootstrap.1", NEW) == "new"
    except LedgerError:
        new = False
    assert not new or not names
    ledger.forget("bootstrap.1", [SHARDS])
    assert ledger.state("bootstrap.1", NEW) == "new" and run.list(SHARDS) == [] == run.list("nodes")


def test_on_object_stores_records_go_first_too(monkeypatch):
    run = Store("memory://forgotten")
    judged(run)
    filesystem = fsspec.filesystem("memory")
    removed = []
    original = type(filesystem).rm
    monkeypatch.setattr(
        type(filesystem),
        "rm",
        lambda self, paths, *a, **k: (removed.append(paths), original(self, paths, *a, **k)),
    )
    run.remove(SHARDS)
    first, second = removed
    assert [name.endswith(".json") for name in first] == [True] * 3 and len(second) == 3
    assert run.list(SHARDS) == []


@pytest.fixture
def scene(tmp_path):
    """The run directory of a whole loop of which every node is done."""
    return done(parse_config(tiny_data(tmp_path), "c.yaml"))


def done(config):
    run_dir = writable(config)
    nodes, run = run_dir.nodes, run_dir.store
    for name in nodes:
        run_dir.ledger.finish(name, OLD, DONE, 1.0)
    for source in config.sources:
        run.put_json(f"corpus/{source}/000000.json", {"shard": 0})
        run.put_json(f"corpus/{source}/index/index.json", {})
    for round_, source in ((n.round, s) for n in nodes.values() if n.kind.judges for s in n.sources):
        run.put_json(f"rounds/{round_}/{source}/000000.json", {"shard": 0})
    for name, node in nodes.items():
        if node.kind.trains:
            run.put_json(f"models/{name}/provenance.json", {})
            run.put(f"train/{name}/{name}-0123/step_000002/state.pt", b"half way")
            run.put(f"logs/{name}/steps.jsonl", b"{}")
    run.put("models/tokenizer/tokenizer.json", b"{}")
    return run_dir


def left(run_dir):
    return {name for name in walk(run_dir.store) if not name.startswith(("lease/", "logs/"))}


def test_a_training_begins_from_its_start_again_and_so_does_the_vocabulary_of_the_first(scene):
    forget(scene, "pretrain.1")
    assert not {name for name in left(scene) if "pretrain.1" in name}
    assert {"models/tokenizer/tokenizer.json", "nodes/captioner.1.json"} <= left(scene)
    forget(scene, "pretrain.0")
    assert left(scene) == {
        *(
            f"corpus/{source}/{file}"
            for source in scene.config.sources
            for file in ("000000.json", "index/index.json")
        ),
        "nodes/fetch.json",
    }


@pytest.fixture
def given(tmp_path):
    """Both checkpoints are given, and a model is pretrained on what comes out: the web images come with the
    bootstrap, the others with a node of their own."""
    data = tiny_data(tmp_path)
    for role in ("captioner", "filter"):
        data[role] = {"checkpoint": str(tmp_path / role)}
    return done(parse_config(data, "c.yaml"))


@pytest.mark.parametrize("lost", [(), ("pretrain", "evaluate")])
def test_fetch_means_the_images_of_all_sources(given, tmp_path, lost):
    if lost:
        given.store.remove("")
        data = {k: v for k, v in given.config.model_dump().items() if k not in lost}
        given = done(type(given.config).model_validate(data))
        assert "fetch" not in given.nodes
    forget(given, "fetch")
    kept = {name for name in left(given) if name.startswith("corpus/")}
    fetched_by_nobody = {"corpus/human", "corpus/test"} if lost else set()
    assert {name.rsplit("/", 1)[0].removesuffix("/index") for name in kept} == fetched_by_nobody
    assert not any(name.startswith(("rounds/", "nodes/")) for name in left(given))


def test_an_owner_that_was_replaced_takes_nothing_away(scene):
    class Replaced:
        def confirm(self):
            raise Killed

    before = left(scene)
    with pytest.raises(Killed):
        forget(replace(scene, held=Replaced()), "fetch")
    assert left(scene) == before
    assert json.loads(scene.store.read("nodes/fetch.json"))["inputs"] == OLD
