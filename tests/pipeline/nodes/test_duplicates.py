"""Which copies of an image are surplus, whatever the order."""

import hashlib
import itertools

import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.nodes import duplicates
from capfilt.pipeline.nodes.duplicates import (
    count_copies,
    ensure_counted,
    most_copied_images,
    surplus_texts,
)
from capfilt.pipeline.plan import plan
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.stages.bootstrap.duplicates import DUPLICATES_SCHEMA, SurplusCopies
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.pairs.read import PairsConfig, ReadPairs
from capfilt.stages.rows import row_key, table_of
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import DUPLICATES, SURPLUS
from tests.pipeline.nodes import duplicates_run
from tests.pipeline.nodes.duplicates_run import (
    CORPUS,
    EXPECTED,
    PHASH,
    A,
    B,
    C,
    D,
    config_of,
    context_of,
    mark,
    marked_rows,
    write_shards,
)
from tests.runs import writable


@pytest.mark.parametrize("order", [1, -1])
def test_first_copies_are_kept_whatever_was_fetched_first(tmp_path, order):
    write_shards(tmp_path, list(CORPUS)[::order])
    context = context_of(config_of(tmp_path))
    assert mark(context) == 2
    assert marked_rows(context) == EXPECTED
    images = pq.read_table(context.store.path(DUPLICATES)).to_pylist()
    assert [(each["kind"], each["hash"], each["copies"], each["first"], each["last"]) for each in images] == [
        ("perceptual", PHASH, 5, "web/00000000000", "web/00000000002"),
        ("exact", A[:32], 4, "web/00000000000", "web/00000000002"),
        ("exact", D[:32], 3, "web/00000100002", "web/00000100003"),
        (
            "url",
            hashlib.md5("http://a/random?é".encode()).hexdigest(),
            3,
            "web/00000000001",
            "web/00000100002",
        ),
    ]
    assert surplus_texts(context.store) == {("web", 1): 4, ("web2", 0): 6}  # blank texts do not count


def test_report_lists_an_image_once(context):
    count_copies(context.run_dir)
    assert most_copied_images(context.config, context.store) == [
        {"kind": "perceptual", "copies": 5, "source": "web", "key": "00000000000", "surplus": 3},
        {"kind": "exact", "copies": 3, "source": "web", "key": "00000100002", "surplus": 1},
        {"kind": "url", "copies": 3, "source": "web", "key": "00000000001", "surplus": 1},
    ]
    assert most_copied_images(config_of(context.config.run.dir, policy="keep"), context.store) == []


def test_images_within_the_limit_are_listed_and_kept(context):
    config = config_of(context.config.run.dir, max_copies=50)
    count_copies(writable(config))
    assert [image["copies"] for image in most_copied_images(config, context.store)] == [5, 3, 3]
    assert surplus_texts(context.store) == {}


@pytest.mark.parametrize("listed", [0, 1, 3])
def test_number_of_listed_images_is_limited_only_below_the_limit_of_copies(context, monkeypatch, listed):
    monkeypatch.setattr(duplicates, "LISTED_BELOW_LIMIT", listed)
    count_copies(context.run_dir)
    assert pq.read_table(context.store.path(DUPLICATES))["copies"].to_pylist() == [5, 4, 3, 3]
    for max_copies in (5, 50):
        count_copies(writable(config_of(context.config.run.dir, max_copies=max_copies)))
        assert pq.read_table(context.store.path(DUPLICATES))["copies"].to_pylist() == [5, 4, 3, 3][:listed]


def test_image_with_equally_many_copies_by_two_hashes_is_listed_with_the_first(context):
    rows = [
        {"kind": kind, "hash": "0", "copies": 3, "first": "web/00000000000", "last": None}
        for kind in ("exact", "url")
    ]
    context.store.put(DUPLICATES, encode_parquet(table_of(rows, DUPLICATES_SCHEMA)))
    assert [image["kind"] for image in most_copied_images(context.config, context.store)] == ["exact"]


@pytest.mark.parametrize(("max_copies", "surplus"), [(2, 3), (4, 1), (5, 0), (6, 0)])
def test_copies_are_surplus_only_above_the_limit(context, max_copies, surplus):
    config = config_of(context.config.run.dir, max_copies=max_copies)
    count_copies(writable(config))
    assert most_copied_images(config, context.store)[0]["surplus"] == surplus
    perceptual = pq.read_table(context.store.path(DUPLICATES)).to_pylist()[0]
    assert (perceptual["last"] is None) == (surplus == 0)


def test_without_perceptual_hashes_only_equal_bytes_and_urls_are_copies(context):
    run = context_of(config_of(context.config.run.dir, perceptual=False))
    mark(run)
    assert ("web", 1, "00000100001") not in marked_rows(run) and len(marked_rows(run)) == 4


def test_copies_are_counted_again_only_with_other_settings(context):
    count_copies(context.run_dir)
    context.store.remove("records/corpus/web/000000.json")
    before = context.store.read(DUPLICATES)
    ensure_counted(context.run_dir)
    assert context.store.read(DUPLICATES) == before
    ensure_counted(writable(config_of(context.config.run.dir, max_copies=3)))
    assert context.store.read(DUPLICATES) != before


def test_pretraining_on_unfiltered_texts_skips_surplus_copies(context):
    count_copies(context.run_dir)
    ref = ShardRef("web", 1, "web")
    all_keys = ReadPairs(PairsConfig(run_dir=context.store)).read(ref)["key"].to_pylist()
    config = PairsConfig(run_dir=context.store, without_surplus=True)
    assert all_keys == [row_key(1, i) for i in range(4)]
    assert ReadPairs(config).read(ref)["key"].to_pylist() == [row_key(1, 2), row_key(1, 3)]


def test_policy_belongs_to_the_fingerprint_of_verdicts_and_not_of_images(tmp_path, monkeypatch):
    monkeypatch.setattr(Fingerprints, "checkpoint", lambda self, role: "digest")
    configs = [config_of(tmp_path, policy=policy) for policy in ("keep", "flag", "drop")]
    fingerprints = [Fingerprints(config, plan(config)) for config in configs]
    for one, other in itertools.combinations(fingerprints, 2):
        assert one.of("bootstrap.1") != other.of("bootstrap.1")
        assert one.corpus("web") == other.corpus("web")


def test_surplus_copies_are_found_by_any_of_their_hashes():
    exact = {"kind": "exact", "hash": A[:32], "last": "web/00000000005"}
    copies = SurplusCopies([exact, {"kind": "perceptual", "hash": PHASH, "last": None}])
    row = {"source": "web", "key": "00000000005", "sha256": A, "phash": PHASH, "url": None}
    assert not copies.contains(row)
    assert copies.contains(row | {"key": "00000000006"})
    assert copies.contains(row | {"source": "web2", "key": "0"})
    assert not copies.contains(row | {"key": "9", "sha256": None, "phash": None})


@pytest.mark.parametrize(("bits", "is_counted"), [(31, False), (32, True), (33, True)])
def test_a_perceptual_hash_counts_from_half_of_its_bits(tmp_path, monkeypatch, bits, is_counted):
    phash = f"{(1 << bits) - 1:016x}"
    corpus = {("web", 0): [(A, phash), (B, phash), (C, phash)]}
    monkeypatch.setattr(duplicates_run, "CORPUS", corpus)
    write_shards(tmp_path / "run", corpus)
    context = context_of(config_of(tmp_path / "run"))
    mark(context)
    assert marked_rows(context) == ([("web", 0, row_key(0, 2))] if is_counted else [])


@pytest.mark.parametrize("damage", [b"", b"PAR1", b"half a table", None])
@pytest.mark.parametrize("name", [DUPLICATES, SURPLUS])
def test_a_damaged_count_is_made_again(context, name, damage):
    store = context.store
    count_copies(context.run_dir)
    before = {each: store.read(each) for each in (DUPLICATES, SURPLUS)}
    if damage is None:
        store.remove_file(name)
    else:
        store.put(name, damage)
    ensure_counted(context.run_dir)
    assert {each: store.read(each) for each in before} == before
