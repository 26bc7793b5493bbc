"""`--fresh`: what goes, and that a kill in between leaves nothing that could be taken for another config's work."""

import json
from pathlib import Path

import fsspec
import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.plan import plan
from capfilt.pipeline.prepare import forget
from capfilt.pipeline.rundir.ledger import Ledger, LedgerError
from capfilt.stages.storage.store import Store
from tests.pipeline.maintenance.retry_scene import Owner
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
    Ledger(run).finish("bootstrap.1", OLD)


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
    for shard in ledger.committed(SHARDS):  # what counts is whole
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
    """(config, ledger, nodes) of a whole loop of which every node is done."""
    return done(parse_config(tiny_data(tmp_path), "c.yaml"))


def done(config):
    nodes, run = plan(config), Store(config.run.dir)
    for name in nodes:
        Ledger(run).finish(name, OLD)
    for source in config.sources:
        run.put_json(f"corpus/{source}/000000.json", {"shard": 0})
        run.put_json(f"corpus/{source}/index/index.json", {})
    for round_, source in ((n.round, s) for n in nodes.values() if n.kind == "bootstrap" for s in n.sources):
        run.put_json(f"rounds/{round_}/{source}/000000.json", {"shard": 0})
    for name, node in nodes.items():
        if node.kind in ("pretrain", "captioner", "filter"):
            run.put_json(f"models/{name}/provenance.json", {})
            run.put(f"train/{name}/{name}-0123/step_000002/state.pt", b"half way")
            run.put(f"logs/{name}/steps.jsonl", b"{}")
    run.put("models/tokenizer/tokenizer.json", b"{}")
    return config, Ledger(run), nodes


def left(ledger):
    return {name for name in ledger.run.walk() if not name.startswith(("lease/", "logs/"))}


def test_a_training_begins_from_its_start_again_and_so_does_the_vocabulary_of_the_first(scene):
    config, ledger, nodes = scene
    forget(config, ledger, nodes, "pretrain.1", Owner())
    assert not {name for name in left(ledger) if "pretrain.1" in name}
    assert {"models/tokenizer/tokenizer.json", "nodes/captioner.1.json"} <= left(ledger)
    forget(config, ledger, nodes, "pretrain.0", Owner())
    assert left(ledger) == {
        *(
            f"corpus/{source}/{file}"
            for source in config.sources
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
    config, ledger, nodes = given
    if lost:
        ledger.run.remove("")
        data = {k: v for k, v in config.model_dump().items() if k not in lost}
        config, ledger, nodes = done(type(config).model_validate(data))
        assert "fetch" not in nodes
    forget(config, ledger, nodes, "fetch", Owner())
    kept = {name for name in left(ledger) if name.startswith("corpus/")}
    fetched_by_nobody = {"corpus/human", "corpus/test"} if lost else set()
    assert {name.rsplit("/", 1)[0].removesuffix("/index") for name in kept} == fetched_by_nobody
    assert not any(name.startswith(("rounds/", "nodes/")) for name in left(ledger))


def test_an_owner_that_was_replaced_takes_nothing_away(scene):
    class Replaced:
        def confirm(self):
            raise Killed

    config, ledger, nodes = scene
    before = left(ledger)
    with pytest.raises(Killed):
        forget(config, ledger, nodes, "fetch", Replaced())
    assert left(ledger) == before
    assert json.loads(ledger.run.read("nodes/fetch.json"))["inputs"] == OLD
