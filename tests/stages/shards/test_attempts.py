"""Attempts at one shard that interleave or die: a committed shard's bytes stay what its record lists."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.stages.rows import ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.attempts import give_plain_names
from capfilt.stages.shards.commit import read_commit
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.layout import corpus_shard
from capfilt.stages.storage.store import Store, sha256
from tests.killing import Killed, kill_at
from tests.runs import walk

FOLDER, PLACE = "corpus/web", corpus_shard("web", 3)


@pytest.fixture(params=["disk", "s3"])
def store(request, tmp_path):
    if request.param == "disk":
        return Store(str(tmp_path / "run"))
    server = request.getfixturevalue("healthy_s3")
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return Store(f"s3://bucket/{name}", {"endpoint_url": server.endpoint})


def attempt(store, text):
    """One attempt, which has downloaded images with this content."""
    row = {"key": row_key(3, 0), "source": "web", "shard": 3, "url": "u", "texts": [text], "caption": text}
    batch = table_of([row | {"status": "success", "image": b"\xff\xd8\xff" + text.encode()}], ROW_SCHEMA)
    Write(WriteConfig(run_dir=store, corpus_fingerprints={"web": "f"}))(batch)


def committed(store):
    """{name: content} of the files that the record lists; they are those that were written."""
    record = read_commit(store, PLACE.record)
    files = {file.name: store.read(PLACE.path(file.name)) for file in record.files}
    assert [sha256(data) for data in files.values()] == [file.sha256 for file in record.files]
    return files


def read_text(store):
    rows = Read(ReadConfig(run_dir=store))(pa.Table.from_pylist([{"source": "web", "shard": 3}]))
    assert rows["image"].to_pylist() == [b"\xff\xd8\xff" + rows["caption"][0].as_py().encode()]
    return rows["caption"][0].as_py()


def check_plain_names(store, text):
    give_plain_names(store, FOLDER, lambda: None)
    assert sorted(committed(store)) == ["000003.parquet", "000003.tar"]
    assert walk(store) == sorted([PLACE.record, PLACE.parquet, PLACE.tar])
    table = pq.read_table(io.BytesIO(store.read(PLACE.parquet)))
    assert table["caption"].to_pylist() == [text] == [read_text(store)]


@pytest.mark.parametrize("step", range(4))
def test_attempt_that_is_overtaken_at_any_step_changes_no_committed_byte(store, monkeypatch, step):
    """The late attempt is suspended before its write number `step`; the other one begins and commits."""
    seen, before = [], {}
    create = Store.create

    def suspended(self, name, data):
        seen.append(name)
        if len(seen) == step + 1:
            monkeypatch.setattr(Store, "create", create)
            attempt(store, "other")
            before.update(committed(store))
        return create(self, name, data)

    monkeypatch.setattr(Store, "create", suspended)
    attempt(store, "late")
    if step == 3:  # the late attempt had committed
        assert len(seen) == 3
        attempt(store, "other")
        before.update(committed(store))
    assert committed(store) == before
    check_plain_names(store, "late" if step == 3 else "other")


@pytest.mark.parametrize("step", range(4))
def test_shard_of_an_attempt_that_died_at_any_step_is_made_again(store, monkeypatch, step):
    with monkeypatch.context() as patched:
        kill_at(patched, step, Store, ("create",))
        if step < 3:
            with pytest.raises(Killed):
                attempt(store, "dead")
        else:
            attempt(store, "dead")
    attempt(store, "next")
    text = "dead" if step == 3 else "next"
    assert read_text(store) == text
    check_plain_names(store, text)


@pytest.mark.parametrize("step", range(6))
def test_plain_names_are_given_by_the_next_call_after_a_death_at_any_step(store, monkeypatch, step):
    steps = ("put", "remove_file")
    store.create(PLACE.tar, b"of a dead attempt")
    store.create(PLACE.parquet, b"of a dead attempt")
    attempt(store, "next")
    with monkeypatch.context() as patched:
        done = kill_at(patched, step, Store, steps)
        try:
            give_plain_names(store, FOLDER, lambda: None)
            assert step == 5 == len(done)  # two files, the record, two removals
        except Killed:
            assert step < 5
    assert read_text(store) == "next" and len(committed(store)) == 2
    check_plain_names(store, "next")


def test_equal_files_of_a_dead_attempt_are_taken_over(store, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(Killed):
        kill_at(patched, 2, Store, ("create",))
        attempt(store, "same")
    attempt(store, "same")
    assert sorted(committed(store)) == ["000003.parquet", "000003.tar"]


def test_files_without_a_record_and_names_after_a_lost_lease_stay(store):
    store.create(PLACE.tar, b"of a dead attempt")
    store.put(PLACE.path("_000004.0123abcd.tar"), b"of an attempt at work")

    def lost():
        raise RuntimeError("lost")

    give_plain_names(store, FOLDER, lost)
    attempt(store, "next")
    before = {name: store.read(name) for name in walk(store)}
    with pytest.raises(RuntimeError):
        give_plain_names(store, FOLDER, lost)
    assert {name: store.read(name) for name in walk(store)} == before
