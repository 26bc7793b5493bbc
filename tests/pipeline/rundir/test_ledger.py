"""Records of a run directory: states of nodes, refusals, and what a kill during a removal leaves."""

import json
from pathlib import Path

import fsspec
import pytest

from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.rundir.changes import difference
from capfilt.pipeline.rundir.ledger import CHUNK, Ledger, LedgerError, fingerprint
from capfilt.stages.shards.records import CorpusRecord, RowCounts, encode
from capfilt.stages.storage.store import Store
from tests.killing import Killed, kill_at
from tests.runs import NO_RESULT

INPUTS = {"seed": 1, "captioner": {"generate": {"sampling": {"top_p": 0.9}}}, "upstream": {"fetch": "aa"}}
SHARDS = "rounds/1/web"


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Store(str(tmp_path)))


def changed(top_p):
    return {**INPUTS, "captioner": {"generate": {"sampling": {"top_p": top_p}}}}


def corpus_record(shard=0):
    rows = RowCounts(read=0, status={})
    return CorpusRecord(source="web", shard=shard, fingerprint="f", files=(), rows=rows)


def test_node_is_new_then_half_done_then_done(ledger):
    assert ledger.state("n", INPUTS) == "new" and ledger.latest("n") is None
    ledger.start("n", INPUTS)
    assert ledger.state("n", INPUTS) == "half"
    assert ledger.node("n") is None and ledger.latest("n").inputs == INPUTS
    ledger.finish("n", INPUTS, NO_RESULT, 1.0)
    assert ledger.state("n", INPUTS) == "done"
    assert ledger.node("n").seconds == ledger.latest("n").seconds == 1.0
    ledger.reopen("n")
    assert ledger.state("n", INPUTS) == "half" and ledger.store.list("nodes") == ["n.started.json"]


def test_record_of_a_node_holds_its_result(ledger):
    results = {"pretrain.0": {"retrieval": {"tr@1": 50.0}, "caption": {}}}
    result = NodeResult("", ("models/n",), {"pairs": 3}, {"captioner": "ab"}, results)
    ledger.finish("n", INPUTS, result, 1.5)
    assert ledger.store.read_json("nodes/n.json") == {
        "version": 1,
        "node": "n",
        "fingerprint": fingerprint(INPUTS),
        "inputs": INPUTS,
        "seconds": 1.5,
        "outputs": ["models/n"],
        "counts": {"pairs": 3},
        "models": {"captioner": "ab"},
        "results": results,
    }
    ledger.finish("m", INPUTS, NO_RESULT, 1.5)
    assert {"models", "results"}.isdisjoint(ledger.store.read_json("nodes/m.json"))


def test_infinite_numbers_in_a_config_survive(ledger):
    inputs = {"optimizer": {"max_grad_norm": float("inf")}}
    ledger.start("n", inputs)
    assert ledger.state("n", inputs) == "half"
    ledger.finish("n", inputs, NO_RESULT, 1.0)
    assert ledger.state("n", inputs) == "done" and ledger.node("n").inputs == inputs


@pytest.mark.parametrize("done", [True, False])
def test_changed_config_is_refused_with_what_changed_and_what_to_do(ledger, done):
    ledger.start("bootstrap.1", INPUTS)
    if done:
        ledger.finish("bootstrap.1", INPUTS, NO_RESULT, 1.0)
    with pytest.raises(LedgerError) as error:
        ledger.state("bootstrap.1", changed(0.8))
    text = str(error.value)
    assert (
        f"bootstrap.1 was {'made' if done else 'begun'} with captioner.generate.sampling.top_p = 0.9" in text
    )
    assert "now says 0.8" in text and "--fresh bootstrap.1" in text and "\n" not in text


def test_long_values_are_cut_in_messages(ledger):
    value = "x" * 57
    ledger.start("n", {"columns": value + "x"})
    with pytest.raises(LedgerError) as error:
        ledger.state("n", {"columns": value + "yz"})
    assert f'columns = "{value}x", the config now says "{value[:56]}...;' in str(error.value)


def test_fingerprint_ignores_the_order_of_keys_and_depends_on_values():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(INPUTS) != fingerprint(changed(0.8))


def test_difference_names_a_config_key_before_an_upstream():
    before = {"upstream": {"x": "1"}, "seed": 1}
    assert difference(before, {"upstream": {"x": "2"}, "seed": 2}) == ("seed", 1, 2)
    assert difference(before, {"upstream": {"x": "2"}, "seed": 1}) == ("upstream.x", "1", "2")
    assert difference(before, {"seed": 1}) == ("upstream", {"x": "1"}, None)


def test_directory_with_other_files_is_refused(ledger):
    ledger.check_place()
    ledger.store.put("nodes/fetch.started.json", b"{}")  # a run that was killed before it wrote its config
    ledger.check_place()
    for name in ("a.tex", "b.tex", "c.tex", "d.tex"):
        ledger.store.put(name, b"")
    with pytest.raises(
        LedgerError, match=r"not empty and not a capfilt run \(it holds a.tex, b.tex, c.tex\)"
    ):
        ledger.check_place()
    ledger.save_config("run: {}")
    ledger.check_place()


def test_only_commit_records_count_as_shards(ledger):
    for name in ("000000.json", "000000.tar", "000002.json", "dataset.json", "000001.parquet"):
        ledger.store.put(f"records/corpus/web/{name}", encode(corpus_record()))
    assert ledger.committed_shards("corpus/web") == [0, 2]
    assert len(list(ledger.records("corpus/web"))) == 2


def test_records_of_an_object_store_come_in_the_order_of_the_shards():
    store = Store("memory://many-records")
    count = 2 * CHUNK + 1
    for shard in range(count):
        store.put(f"records/corpus/web/{shard:06d}.json", encode(corpus_record(shard)))
    assert [record.shard for record in Ledger(store).records("corpus/web")] == list(range(count))


def test_discard_removes_outputs_and_records(ledger):
    ledger.finish("n", INPUTS, NO_RESULT, 1.0)
    ledger.store.put("models/n/model.safetensors", b"x")
    ledger.discard("n", ["models/n"])
    assert ledger.state("n", INPUTS) == "new" and not ledger.store.exists("models/n")


def finish_bootstrap(store, shards=3):
    """Files and records of a bootstrap that is done."""
    for shard in range(shards):
        store.put(f"{SHARDS}/{shard:06d}.parquet", b"rows")
        store.put_json(f"{SHARDS}/{shard:06d}.json", {"shard": shard})
    Ledger(store).finish("bootstrap.1", INPUTS, NO_RESULT, 1.0)


UNLINKS, CALLS = 3, 4
"""Steps of a removal: first the records of the shards are unlinked, all else are calls of `Store`."""


@pytest.mark.parametrize("step", range(UNLINKS + CALLS + 1))
def test_discard_killed_at_any_step_leaves_no_shard_for_a_changed_config(ledger, monkeypatch, step):
    store = ledger.store
    finish_bootstrap(store)
    with monkeypatch.context() as patched:
        if step < UNLINKS:
            done = kill_at(patched, step, Path, ("unlink",))
        else:
            done = kill_at(patched, step - UNLINKS, Store, ("put", "remove", "remove_file"))
        with pytest.raises(Killed):
            ledger.discard("bootstrap.1", [SHARDS])
            assert step == UNLINKS + CALLS and len(done) == CALLS, "the number of steps has changed"
            raise Killed
    files = set(store.list(SHARDS))
    for shard in ledger.committed_shards(SHARDS):
        assert f"{shard:06d}.parquet" in files
    try:
        is_new = ledger.state("bootstrap.1", changed(0.8)) == "new"
    except LedgerError:
        is_new = False
    assert not is_new or not files
    ledger.discard("bootstrap.1", [SHARDS])
    assert ledger.state("bootstrap.1", changed(0.8)) == "new"
    assert store.list(SHARDS) == [] == store.list("nodes")


def test_object_stores_remove_commit_records_before_other_files(monkeypatch):
    store = Store("memory://removal")
    finish_bootstrap(store)
    filesystem = fsspec.filesystem("memory")
    removed = []
    original = type(filesystem).rm
    monkeypatch.setattr(
        type(filesystem),
        "rm",
        lambda self, paths, *a, **k: (removed.append(paths), original(self, paths, *a, **k)),
    )
    store.remove(SHARDS)
    first, second = removed
    assert [name.endswith(".json") for name in first] == [True] * 3 and len(second) == 3
    assert store.list(SHARDS) == []


def test_damaged_commit_record_is_an_error_that_names_the_file(ledger):
    record = json.loads(encode(corpus_record()))
    del record["rows"]
    ledger.store.put_json("records/corpus/web/000000.json", record)
    with pytest.raises(
        LedgerError, match=r"records/corpus/web/000000\.json: damaged \(.*`rows`.*--repair fixes it"
    ):
        list(ledger.records("corpus/web"))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seconds": -1.0}, "seconds"),
        ({"seconds": "1"}, "seconds"),
        ({"version": 0}, "version"),
        ({"results": {"pretrain.0": {"retrieval": {}}}}, "caption"),
        ({"results": {"pretrain.0": {"retrieval": {"tr@1": "50"}, "caption": {}}}}, "results"),
        ({"results": {"pretrain.0": 7}}, "results"),
    ],
)
def test_values_that_no_record_of_a_node_has_are_damage(ledger, changes, key):
    ledger.finish("evaluate.1", {}, NO_RESULT, 0.0)
    record = ledger.store.read_json("nodes/evaluate.1.json")
    assert ledger.node("evaluate.1").seconds == 0.0
    ledger.store.put_json("nodes/evaluate.1.json", record | changes)
    with pytest.raises(LedgerError, match=rf"nodes/evaluate\.1\.json: damaged \(.*{key}.*--repair fixes it"):
        ledger.node("evaluate.1")
