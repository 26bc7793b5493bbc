"""Sums over commit records, as node records hold them."""

from types import SimpleNamespace

from capfilt.pipeline.rundir.contents.totals import count_bytes, count_records
from capfilt.stages.shards.records import CandidatesRecord, CorpusRecord, RowCounts
from capfilt.stages.storage.store import FileEntry


def rows(**status):
    return RowCounts(read=sum(status.values()), status=status)


def files(**sizes):
    return tuple(FileEntry(f"000000.{suffix}", size, "") for suffix, size in sizes.items())


COMMON = {"shard": 0, "fingerprint": "f"}
CORPUS = [
    CorpusRecord(
        source="a",
        rows=rows(success=2, dns=1),
        texts=4,
        seconds={"fetch": 1.26},
        files=files(tar=100, parquet=10),
        received=500,
        **COMMON,
    ),
    CorpusRecord(
        source="a",
        rows=rows(success=3),
        texts=5,
        seconds={"fetch": 1.0, "read": 0.5},
        files=files(tar=200, parquet=20),
        **COMMON,
    ),
]
CANDIDATES = [
    CandidatesRecord(
        source="b", round=1, rows=rows(success=1), candidates=each, files=files(parquet=7), **COMMON
    )
    for each in ({"web": {"kept": 2, "dropped": 1}}, {"web": {"kept": 1}, "synthetic": {"unjudged": 3}})
]
LEDGER = SimpleNamespace(records={"corpus/a": CORPUS, "rounds/1/b": CANDIDATES}.__getitem__)


def test_totals_of_commit_records():
    assert count_records(LEDGER, {"a": "corpus/a", "b": "rounds/1/b"}) == {
        "rows": 8,
        "status": {"success": 7, "dns": 1},
        "by_source": {"a": {"success": 5, "dns": 1}, "b": {"success": 2}},
        "candidates": {"web": {"kept": 3, "dropped": 1}, "synthetic": {"unjudged": 3}},
        "texts": 9,
        "stage_seconds": {"fetch": 2.3, "read": 0.5},
        "bytes": {"images": 300, "rows": 30, "received": 500, "candidates": 14},
    }


def test_bytes_of_folders():
    assert count_bytes(LEDGER, {"a": "corpus/a"}) == {"images": 300, "rows": 30, "received": 500}
    assert count_bytes(LEDGER, {}) == {}
