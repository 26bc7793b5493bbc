"""The pairs of a corpus shard: which images and texts are used, and the ids of images."""

import pyarrow as pa
import pytest

from capfilt.stages.bootstrap.duplicates import DUPLICATES_SCHEMA
from capfilt.stages.pairs.hold_out import is_held_out
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs, image_id
from capfilt.stages.rows import CANDIDATE_SCHEMA, ROW_SCHEMA, row_key, table_of
from capfilt.stages.shards.records import CandidatesRecord, RowCounts, encode
from capfilt.stages.shards.write import Write, WriteConfig, encode_parquet
from capfilt.stages.storage.layout import DUPLICATES, candidates_shard
from capfilt.stages.storage.store import Store
from capfilt.stages.verdicts.judge import Judge
from capfilt.stages.verdicts.policy import Policy
from capfilt.stages.verdicts.rules import PolicyText
from capfilt.stages.verdicts.sets import VerdictSet, VerdictSetError

SHA = "ab" * 32
TEXTS = [["one", " "], ["two", "zwei"], [], ["  "], ["five"], ["six"]]


@pytest.fixture
def run_dir(tmp_path):
    """One shard of the sources `human` and `web` each. Row 4 failed; rows 0 and 5 have equal bytes."""
    store = Store(str(tmp_path))
    for source in ("human", "web"):
        rows = [
            {
                "key": row_key(0, number),
                "source": source,
                "shard": 0,
                "texts": texts,
                "status": "dns" if number == 4 else "success",
                "sha256": SHA if number in (0, 5) else None,
                "image": None if number == 4 else b"\xff\xd8\xff" + bytes([number]),
            }
            for number, texts in enumerate(TEXTS)
        ]
        write = Write(WriteConfig(run_dir=store, corpus_fingerprints={source: "f"}))
        write(table_of(rows, ROW_SCHEMA))
    verdicts = [
        (0, "one", "web", False, 0.5),
        (1, "two", "web", True, 0.25),
        (1, "synthetic", "synthetic", True, 1.0),
        (2, "new", "synthetic", True, 1.0),
        (5, "six", "web", None, 1.0),
    ]
    candidates = [
        {"key": row_key(0, row), "text": text, "origin": origin, "kept": kept, "itc_sim": similarity}
        for row, text, origin, kept, similarity in verdicts
    ]
    store.put(candidates_shard(2, "web", 0).parquet, encode_parquet(table_of(candidates, CANDIDATE_SCHEMA)))
    return store


def read(run_dir, kind, **config):
    """{number of the row: texts} of the pairs of a shard."""
    pairs = ReadPairs(PairsConfig(run_dir=run_dir, **config)).read(ShardRef(kind, 0, kind)).to_pylist()
    assert all(pair["image"] == b"\xff\xd8\xff" + bytes([int(pair["key"])]) for pair in pairs)
    return {int(pair["key"]): pair["texts"] for pair in pairs}


def test_stored_images_are_used_with_their_texts_that_have_words(run_dir):
    expected = {0: ["one"], 1: ["two", "zwei"], 5: ["six"]}
    assert read(run_dir, "web") == read(run_dir, "human") == expected


def test_held_out_web_images_are_left_out_before_and_after_a_round(run_dir):
    held_out = {row for row in range(6) if is_held_out("web", row_key(0, row), 0.5)}
    assert held_out & {0, 1, 2, 5} and {0, 1, 2, 5} - held_out, "the example has both"
    for round_ in (0, 2):
        everything = read(run_dir, "web", round=round_)
        left = {row: texts for row, texts in everything.items() if row not in held_out}
        assert read(run_dir, "web", round=round_, hold_out=0.5) == left
        assert read(run_dir, "human", round=round_, hold_out=0.5) == read(run_dir, "human")


def test_after_a_round_web_images_are_used_with_the_texts_that_the_filter_kept(run_dir):
    assert read(run_dir, "web", round=2) == {1: ["two", "synthetic"], 2: ["new"]}
    assert read(run_dir, "human", round=2) == read(run_dir, "human")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ("kept", {1: ["two", "synthetic"], 2: ["new"]}),
        ("kept_web", {1: ["two"]}),
        ("all", {0: ["one"], 1: ["two", "synthetic"], 2: ["new"]}),
    ],
)
def test_candidates_are_chosen_by_verdict_and_origin(run_dir, verdicts, expected):
    assert read(run_dir, "web", round=2, verdicts=verdicts) == expected
    assert read(run_dir, "human", round=2, verdicts=verdicts) == read(run_dir, "human")
    assert read(run_dir, "web", round=0, verdicts=verdicts) == read(run_dir, "web")


def test_surplus_copies_of_web_images_can_be_left_out(run_dir):
    entry = {"kind": "exact", "hash": SHA[:32], "copies": 2, "first": f"web/{row_key(0, 0)}"}
    entry["last"] = f"web/{row_key(0, 0)}"
    run_dir.put(DUPLICATES, encode_parquet(table_of([entry], DUPLICATES_SCHEMA)))
    assert sorted(read(run_dir, "web", without_surplus=True)) == [0, 1]
    assert sorted(read(run_dir, "human", without_surplus=True)) == [0, 1, 5]
    assert sorted(read(run_dir, "web")) == [0, 1, 5]


def test_several_shards_are_read_in_order(run_dir):
    refs = [{"source": s, "shard": 0, "kind": s} for s in ("web", "human")]
    out = ReadPairs(PairsConfig(run_dir=run_dir))(pa.Table.from_pylist(refs))
    assert out["source"].to_pylist() == ["web"] * 3 + ["human"] * 3
    ids = out["image_id"].to_pylist()
    assert ids[0] == ids[2] == ids[3] == ids[5], "equal bytes are one image in all sources"
    assert len(set(ids)) == 3, "without sha256 an image is identified by its source and key"


def test_equal_bytes_are_one_image():
    assert image_id("ab" * 32) == image_id("ab" * 32) != image_id("cd" * 32)
    ids = [image_id(str(n)) for n in range(1000)]
    assert min(ids) >= 0 and 2**62 < max(ids) < 2**63


def test_each_text_has_the_weight_of_its_origin(run_dir):
    def weights(kind, **config):
        pairs = ReadPairs(PairsConfig(run_dir=run_dir, **config)).read(ShardRef(kind, 0, kind)).to_pylist()
        return {int(pair["key"]): pair["weights"] for pair in pairs}

    mixing = {"human": 2.0, "synthetic": 0.5}
    assert weights("web", round=2, weights=mixing) == {1: [1.0, 0.5], 2: [0.5]}
    assert weights("human", round=2, weights=mixing) == {0: [2.0], 1: [2.0, 2.0], 5: [2.0]}
    assert weights("web", weights={"web": 3.0}) == {0: [3.0], 1: [3.0, 3.0], 5: [3.0]}
    assert weights("web", round=2) == {1: None, 2: None}


@pytest.mark.parametrize(
    ("least", "expected"),
    [(0.25, {0: ["one"], 1: ["two"]}), (0.26, {0: ["one"]}), (0.5, {0: ["one"]}), (0.51, {})],
)
def test_web_texts_can_be_chosen_by_itc_similarity(run_dir, least, expected):
    assert read(run_dir, "web", round=2, verdicts="itc", min_itc=least) == expected
    assert read(run_dir, "human", round=2, verdicts="itc", min_itc=least) == read(run_dir, "human")


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [("kept", {0: ["one"], 2: ["new"]}), ("kept_web", {0: ["one"]})],
)
def test_named_set_of_verdicts_says_which_texts_are_kept(run_dir, verdicts, expected):
    place = candidates_shard(2, "web", 0)
    data = run_dir.read(place.parquet)
    record = CandidatesRecord(
        source="web",
        shard=0,
        round=2,
        fingerprint="f",
        files=(run_dir.put(place.parquet, data),),
        rows=RowCounts(read=6, status={"success": 6}),
        candidates={},
    )
    run_dir.put(place.record, encode(record))
    with pytest.raises(VerdictSetError, match="verdicts/short/2/web/000000 is missing"):
        read(run_dir, "web", round=2, verdict_set="short")
    text = PolicyText(keep=("text IN ('one', 'new', 'six')",))  # on six there is no verdict
    short = VerdictSet(name="short", round=2, policy=text, candidates="")
    Judge(run_dir, short, Policy.parse(text, CANDIDATE_SCHEMA)).judge(record)
    assert read(run_dir, "web", round=2, verdicts=verdicts, verdict_set="short") == expected
