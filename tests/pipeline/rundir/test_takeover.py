"""Output of equal nodes is linked instead of made; a kill, a change of the donor and other stores."""

import errno
import os

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.prepare import open_run, prepare
from capfilt.pipeline.rundir.takeover import take_over
from capfilt.stages.storage.layout import VOCABULARY, node_record
from capfilt.stages.storage.run_store import RunStore
from capfilt.stages.storage.store import Store
from tests.killing import Killed, kill_at
from tests.runs import walk, writable
from tests.tiny import tiny_data

SHARED = ["fetch", "pretrain.0", "captioner.1", "filter.1"]
"""Nodes whose inputs another sampling of the captions does not change."""
STEPS = ("take", "put", "remove_file")


def config_of(tmp_path, name, change=lambda data: None, base="", **run):
    data = tiny_data(tmp_path)
    data["run"] |= {"dir": f"{base or tmp_path}/{name}", **run}
    change(data)
    return parse_config(data, "test")


def other_sampling(data):
    data["captioner"]["generate"]["sampling"]["top_p"] = 0.5


def make_done(config):
    """A run directory as if the config had been run: every node has two files and a record in its folders."""
    run_dir = open_run(config)
    for name, node in run_dir.nodes.items():
        folders = [*node.outputs, *node.kind.shared_outputs]
        for folder in folders:
            run_dir.store.put(f"{folder}/data.bin", f"{name} {folder}".encode())
            run_dir.store.put(f"{folder}/000000.json", b"{}")
        inputs = run_dir.fingerprints.inputs(name)
        run_dir.ledger.finish(name, inputs, NodeResult("", tuple(node.outputs), {"node": name}), 12.5)
    run_dir.ledger.save_config("made: by a test\n")
    return run_dir


def outputs(run_dir, names):
    folders = [
        folder
        for name in names
        for folder in (*run_dir.nodes[name].outputs, *run_dir.nodes[name].kind.shared_outputs)
    ]
    return {file: run_dir.store.read(file) for folder in folders for file in walk(run_dir.store, folder)}


def done_nodes(run_dir):
    return [name for name in run_dir.nodes if run_dir.ledger.node(name) is not None]


@pytest.fixture
def donor(tmp_path):
    return make_done(config_of(tmp_path, "donor"))


def test_nodes_with_equal_inputs_are_linked_and_no_other(tmp_path, donor):
    run_dir = writable(config_of(tmp_path, "other", other_sampling))
    taken = take_over(run_dir, [donor.store])
    assert list(taken) == SHARED == done_nodes(run_dir)
    assert set(taken.values()) == {str(tmp_path / "donor")}
    assert outputs(run_dir, SHARED) == outputs(donor, SHARED) and len(outputs(run_dir, SHARED)) > 20
    for file in outputs(run_dir, SHARED):
        assert os.path.samefile(run_dir.store.path(file), donor.store.path(file)), file
    assert not run_dir.store.exists("rounds") and not run_dir.store.exists("reports")
    record, original = run_dir.ledger.node("pretrain.0"), donor.ledger.node("pretrain.0")
    assert record.taken_from == str(tmp_path / "donor") and record.seconds == 12.5
    assert (record.fingerprint, record.counts) == (original.fingerprint, original.counts)


def test_an_equal_run_takes_everything_but_the_report(tmp_path, donor):
    run_dir = writable(config_of(tmp_path, "same"))
    assert list(take_over(run_dir, [donor.store])) == [n for n in donor.nodes if n != "report.1"]
    before = walk(run_dir.store)
    assert take_over(run_dir, [donor.store]) == {} and walk(run_dir.store) == before


def test_another_seed_takes_only_what_has_no_seed(tmp_path, donor):
    assert list(take_over(writable(config_of(tmp_path, "other", seed=1)), [donor.store])) == ["fetch"]


def test_each_node_comes_from_the_first_donor_that_has_it(tmp_path, donor):
    second = make_done(config_of(tmp_path, "second", other_sampling))
    run_dir = writable(config_of(tmp_path, "third", other_sampling))
    taken = take_over(run_dir, [donor.store, second.store])
    assert {name: os.path.basename(place) for name, place in taken.items()} == {
        **dict.fromkeys(SHARED, "donor"),
        **dict.fromkeys(("bootstrap.1", "pretrain.1", "evaluate.1"), "second"),
    }


def test_work_of_the_run_itself_is_never_replaced(tmp_path, donor):
    run_dir = writable(config_of(tmp_path, "other"))
    run_dir.ledger.save_config("")
    run_dir.ledger.start("fetch", run_dir.fingerprints.inputs("fetch"))
    run_dir.store.put("corpus/web/000000.parquet", b"own")
    assert take_over(run_dir, [donor.store]) == {}
    assert run_dir.store.read("corpus/web/000000.parquet") == b"own"


def test_a_node_that_is_not_done_there_is_not_taken(tmp_path, donor):
    donor.ledger.reopen("captioner.1")
    taken = take_over(writable(config_of(tmp_path, "other")), [donor.store])
    assert list(taken) == ["fetch", "pretrain.0", "filter.1"]


def test_a_damaged_record_there_is_as_good_as_none(tmp_path, donor):
    donor.store.put(node_record("pretrain.0"), b"{")
    assert list(take_over(writable(config_of(tmp_path, "other")), [donor.store])) == ["fetch"]


def test_a_node_that_is_discarded_there_meanwhile_leaves_nothing(tmp_path, donor, monkeypatch):
    run_dir = writable(config_of(tmp_path, "other"))
    take = Store.take

    def take_and_discard(self, source, name):
        take(self, source, name)
        if name.startswith("models/filter.1"):
            donor.ledger.reopen("filter.1")

    monkeypatch.setattr(Store, "take", take_and_discard)
    assert list(take_over(run_dir, [donor.store])) == ["fetch", "pretrain.0", "captioner.1"]
    assert run_dir.ledger.latest("filter.1") is None
    assert not run_dir.store.exists("models/filter.1") and not run_dir.store.exists("logs/filter.1")


def kill_and_resume(monkeypatch, run_dir, stores, resume):
    """Kill a takeover at every step, resume it, and compare the run directory with that of no kill."""
    take_over(run_dir(0), stores)
    expected = walk(run_dir(0).store)
    steps = 0
    while True:
        target = run_dir(steps + 1)
        with monkeypatch.context() as patch:
            done = kill_at(patch, steps, Store, STEPS)
            try:
                take_over(target, stores)
                assert len(done) == steps
                return steps
            except Killed:
                pass
        resume(target)
        assert walk(target.store) == expected, f"killed at step {steps}"
        steps += 1


def test_a_takeover_that_was_killed_is_done_again(tmp_path, donor, monkeypatch):
    def run_dir(number):
        return writable(config_of(tmp_path, f"other-{number}", other_sampling))

    def resume(target):
        take_over(target, [donor.store])
        target.ledger.clear_starts(done_nodes(target))  # as `prepare` does

    assert kill_and_resume(monkeypatch, run_dir, [donor.store], resume) > 30


def test_what_a_killed_takeover_has_left_is_removed_when_the_donor_is_gone(tmp_path, donor, monkeypatch):
    config = config_of(tmp_path, "other")
    steps = 0
    while True:
        with monkeypatch.context() as patch:
            kill_at(patch, steps, Store, STEPS)
            try:
                take_over(writable(config), [donor.store])
                break
            except Killed:
                pass
        prepared = prepare(writable(config))
        states = prepared.state
        assert set(states.values()) <= {"done", "new"}, f"killed at step {steps}"
        for name in (name for name, state in states.items() if state == "new"):
            for folder in prepared.run_dir.nodes[name].outputs:
                assert not prepared.run_dir.store.exists(folder), (steps, folder)
        if states["pretrain.0"] == "new":
            assert not prepared.run_dir.store.exists(VOCABULARY)
        prepared.run_dir.store.remove("")
        steps += 5


def test_without_hard_links_files_are_copied(tmp_path, donor, monkeypatch):
    def refuse(*names):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    run_dir = writable(config_of(tmp_path, "other"))
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        take_over(run_dir, [donor.store])
    assert outputs(run_dir, SHARED) == outputs(donor, SHARED)
    place = "models/filter.1/data.bin"
    assert not os.path.samefile(run_dir.store.path(place), donor.store.path(place))


def test_other_errors_of_a_link_are_not_hidden(tmp_path, donor, monkeypatch):
    def refuse(*names):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(OSError, match="Input/output"):
        take_over(writable(config_of(tmp_path, "other")), [donor.store])


def test_a_run_of_an_earlier_version_gives_nothing(tmp_path, donor):
    donor.store.remove("records")
    assert RunStore(donor.store.url).is_older
    assert take_over(writable(config_of(tmp_path, "other")), [RunStore(donor.store.url)]) == {}


def test_files_on_an_object_store_are_copied_by_the_server(healthy_s3, tmp_path, request):
    options = {"storage_options": {"endpoint_url": healthy_s3.endpoint}}
    base = f"s3://bucket/{request.node.name}"
    donor = make_done(config_of(tmp_path, "donor", base=base, **options))
    run_dir = writable(config_of(tmp_path, "other", other_sampling, base=base, **options))
    healthy_s3.clear_faults()
    assert list(take_over(run_dir, [donor.store])) == SHARED
    read = [path for method, path, _ in healthy_s3.requests() if method == "GET" and path.endswith(".bin")]
    assert read == [], "no data came through this machine"
    assert outputs(run_dir, SHARED) == outputs(donor, SHARED)
