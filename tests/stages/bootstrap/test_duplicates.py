"""Surplus copies: which rows are, and what happens to their candidates."""

import hashlib

import pyarrow as pa
import pytest

from capfilt.stages.bootstrap.duplicates import SurplusCopies, mark_candidates
from capfilt.stages.rows import CANDIDATE_SCHEMA, table_of
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import DUPLICATES
from capfilt.stages.storage.store import Store

SHA, PHASH, URL = "ab" * 32, "00000000ffffffff", "http://a/é"
LAST = "web/00000000005"


def repeated(kind, hash_, last=LAST):
    return {"kind": kind, "hash": hash_, "copies": 9, "first": "web/00000000000", "last": last}


def row_at(key, source="web", **columns):
    return {"source": source, "key": key, "sha256": None, "phash": None, "url": None} | columns


@pytest.mark.parametrize(
    ("entry", "columns"),
    [
        (repeated("exact", SHA[:32]), {"sha256": SHA}),
        (repeated("exact", SHA[:32]), {"sha256": SHA[:32] + "cd" * 16}),
        (repeated("perceptual", PHASH), {"phash": PHASH}),
        (repeated("url", hashlib.md5(URL.encode()).hexdigest()), {"url": URL}),
    ],
)
def test_copies_after_the_last_surviving_one_are_surplus(entry, columns):
    surplus = SurplusCopies([entry])
    assert not surplus.contains(row_at("00000000004", **columns))
    assert not surplus.contains(row_at("00000000005", **columns))
    assert surplus.contains(row_at("00000000006", **columns))
    assert surplus.contains(row_at("00000000000", "web2", **columns)), "the order is that of source/key"
    assert not surplus.contains(row_at("00000000006")), "a row without hashes is not a copy"


def test_another_hash_or_a_hash_of_which_all_copies_survive_is_not_surplus():
    surplus = SurplusCopies([repeated("exact", SHA[:32]), repeated("perceptual", PHASH, last=None)])
    assert not surplus.contains(row_at("9", sha256="0" * 64, phash=PHASH, url=URL))
    assert not surplus.contains(row_at("9", phash=SHA[:32])), "hashes of different kinds are not compared"


def test_the_table_of_a_run_directory_is_read(tmp_path):
    run_dir = Store(str(tmp_path))
    run_dir.put(DUPLICATES, encode_parquet(pa.Table.from_pylist([repeated("exact", SHA[:32])])))
    assert SurplusCopies.read(run_dir).contains(row_at("00000000006", sha256=SHA))


def candidate(key, itm_prob, kept, flags, sha256=SHA):
    return {
        "origin": "web",
        "source": "web",
        "key": key,
        "sha256": sha256,
        "itm_prob": itm_prob,
        "kept": kept,
        "flags": flags,
    }


SURPLUS = SurplusCopies([repeated("exact", SHA[:32])])
AFTER, BEFORE = "00000000006", "00000000005"  # a surplus copy and a surviving one


def mark(rows, *, drop, threshold=0.5):
    marked = mark_candidates(
        table_of(rows, CANDIDATE_SCHEMA),
        SURPLUS,
        drop=drop,
        thresholds=dict.fromkeys(("web", "synthetic"), threshold),
    )
    assert marked.schema.equals(CANDIDATE_SCHEMA)
    return [(row["kept"], row["flags"]) for row in marked.to_pylist()]


def test_surplus_copies_are_flagged_and_lose_their_verdict_if_they_are_dropped():
    rows = [
        candidate(BEFORE, 0.75, True, []),
        candidate(AFTER, 0.75, True, ["degenerate"]),
        candidate(AFTER, 0.25, False, []),
        candidate(AFTER, None, None, ["empty"]),
    ]
    flags = [[], ["degenerate", "duplicate_image"], ["duplicate_image"], ["empty", "duplicate_image"]]
    assert mark(rows, drop=True) == list(zip([True, None, None, None], flags, strict=True))
    assert mark(rows, drop=False) == list(zip([True, True, False, None], flags, strict=True))


@pytest.mark.parametrize("drop", [True, False])
def test_copies_that_are_no_longer_surplus_get_their_verdict_back(drop):
    flags = ["degenerate", "duplicate_image"]
    rows = [candidate(BEFORE, p, None, flags) for p in (0.5 - 2**-20, 0.5, 0.5 + 2**-20)]
    rows.append(candidate(BEFORE, None, None, ["empty", "duplicate_image"]))
    assert mark(rows, drop=drop) == [
        (False, ["degenerate"]),
        (True, ["degenerate"]),
        (True, ["degenerate"]),
        (None, ["empty"]),
    ]


def test_verdicts_of_unmarked_candidates_are_not_changed_by_another_threshold():
    rows = [candidate(BEFORE, 0.6, True, []), candidate(BEFORE, 0.4, False, [])]
    assert mark(rows, drop=True, threshold=0.9) == [(True, []), (False, [])]


def test_marking_again_changes_nothing():
    rows = [candidate(AFTER, 0.75, True, []), candidate(BEFORE, 0.75, True, [])]
    once = mark_candidates(
        table_of(rows, CANDIDATE_SCHEMA), SURPLUS, drop=True, thresholds={"web": 0.5, "synthetic": 0.5}
    )
    assert mark_candidates(once, SURPLUS, drop=True, thresholds={"web": 0.5, "synthetic": 0.5}).equals(once)
