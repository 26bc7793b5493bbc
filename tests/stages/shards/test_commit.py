"""Commit records: counts, exclusive creation, and records of earlier versions."""

import json

import msgspec
import pyarrow as pa
import pytest

from capfilt.stages.rows import ROW_SCHEMA, table_of
from capfilt.stages.shards.commit import (
    commit,
    count_texts,
    count_verdicts,
    find_commit,
    make_corpus_record,
    read_commit,
    stage_seconds,
)
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, RowCounts, decode_commit, encode
from capfilt.stages.storage.store import FileEntry, Store

FILE = FileEntry("000003.tar", 5, "ab" * 32)


def make_batch():
    rows = [
        {"source": "web", "shard": 3, "status": status, "texts": texts}
        for status, texts in (
            ("success", ["a", " ", "b\n"]),
            ("success", None),
            ("success", [""]),
            ("dns", ["c"]),
            ("dns", []),
        )
    ]
    batch = table_of(rows, ROW_SCHEMA)
    return batch.append_column("seconds_fetch", pa.array([1.23456] * 5))


def test_a_corpus_record_counts_rows_texts_and_seconds():
    record = make_corpus_record(make_batch(), "f", [FILE])
    assert record == CorpusRecord(
        source="web",
        shard=3,
        fingerprint="f",
        files=(FILE,),
        rows=RowCounts(read=5, status={"success": 3, "dns": 2}),
        texts=2,
        seconds={"fetch": 1.235},
    )
    assert count_texts(make_batch()) == 2 and stage_seconds(make_batch()) == {"fetch": 1.235}
    assert decode_commit(encode(record)) == record
    assert json.loads(encode(record))["kind"] == "corpus"


def test_the_first_record_is_valid(tmp_path):
    store = Store(str(tmp_path))
    first = make_corpus_record(make_batch(), "first", [FILE])
    assert find_commit(store, "a.json") is None
    with pytest.raises(FileNotFoundError):
        read_commit(store, "a.json")
    assert commit(store, "a.json", first) is first
    assert commit(store, "a.json", make_corpus_record(make_batch(), "second", [])) == first
    assert read_commit(store, "a.json") == find_commit(store, "a.json") == first


@pytest.mark.parametrize("read", [4, 6])
def test_a_record_whose_counts_do_not_add_up_is_refused(tmp_path, read):
    record = msgspec.structs.replace(
        make_corpus_record(make_batch(), "f", []), rows=RowCounts(read=read, status={"success": 3, "dns": 2})
    )
    with pytest.raises(AssertionError, match=r"^a\.json: rows lost"):
        commit(Store(str(tmp_path)), "a.json", record)
    assert not (tmp_path / "a.json").exists()


def test_verdicts_are_counted_by_origin():
    rows = [
        {"origin": origin, "kept": kept}
        for origin, kept in (
            ("web", True),
            ("synthetic", False),
            ("web", None),
            ("web", True),
            ("web", False),
        )
    ]
    counts = count_verdicts(rows)
    assert counts == {"synthetic": {"dropped": 1}, "web": {"kept": 2, "unjudged": 1, "dropped": 1}}
    record = {
        "kind": "candidates", "source": "web", "shard": 3, "round": 1, "fingerprint": "f", "files": [],
        "rows": {"read": 5, "status": {"success": 5}}, "candidates": counts, "a_later_field": 1,
    }  # fmt: skip
    decoded = decode_commit(json.dumps(record).encode())
    assert isinstance(decoded, CandidatesRecord) and decoded.kept == 2
    assert "duplicates" not in json.loads(encode(decoded))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"kind": "corpus"}', b'{"kind": "other", "source": "web"}'])
def test_damaged_records_are_errors(tmp_path, data):
    store = Store(str(tmp_path))
    store.put("a.json", data)
    for read in (read_commit, find_commit):
        with pytest.raises(msgspec.DecodeError):
            read(store, "a.json")


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seconds": {"fetch": -0.1}}, "seconds"),
        ({"seconds": {"fetch": "1"}}, "seconds"),
        ({"version": 0}, "version"),
        ({"version": "1"}, "version"),
        ({"texts": -1}, "texts"),
        ({"rows": {"read": -1, "status": {}}}, "rows.read"),
        ({"rows": {"read": 1, "status": {"success": -1}}}, "rows.status"),
    ],
)
def test_values_that_no_record_has_are_damage(changes, key):
    record = json.loads(encode(make_corpus_record(make_batch(), "f", [])))
    assert encode(decode_commit(json.dumps(record | {"seconds": {"fetch": 0.0}}).encode()))
    with pytest.raises(msgspec.ValidationError, match=key.replace(".", r"\.")):
        decode_commit(json.dumps(record | changes).encode())
