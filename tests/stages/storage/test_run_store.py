"""Run directories of both layouts: files of this version have folders of their own, those of earlier versions
lie together."""

import pickle

import pytest

from capfilt.stages.storage import layout
from capfilt.stages.storage.run_store import RunStore
from capfilt.stages.storage.store import Store

PLACES = {
    "config.yaml": "config.yaml",
    "corpus/web/000012.parquet": "corpus/web/000012.parquet",
    "images/web/000012.tar": "corpus/web/000012.tar",
    "images/web": "corpus/web",
    "records/corpus/web/000012.json": "corpus/web/000012.json",
    "records/rounds/1/web/000012.json": "rounds/1/web/000012.json",
    "records/rounds/1/web": "rounds/1/web",
    "records": "records",
    "manifests/web": "corpus/web/index",
    "manifests/web/index.json": "corpus/web/index/index.json",
    "manifests/web/parts": "corpus/web/index",
    "manifests/web/parts/00000.parquet": "corpus/web/index/00000.parquet",
    "duplicates/surplus.parquet": "corpus/surplus.parquet",
    "replacing/web/000012.json": "replacing/web/000012.json",
    "rounds/1/web/000012.parquet": "rounds/1/web/000012.parquet",
}


def older_run(folder):
    for name in ("config.yaml", "corpus/web/index/index.json", "corpus/web/000012.json"):
        Store(str(folder)).put(name, name.encode())
    return RunStore(str(folder))


def test_places_of_both_layouts(tmp_path):
    older, newer = older_run(tmp_path / "older"), RunStore(str(tmp_path / "newer"))
    for name, place in PLACES.items():
        assert (older.place(name), newer.place(name)) == (place, name)
        assert older.path(name) == str(tmp_path / "older" / place) == older.address(name)
        assert layout.older_place(place) == place


def test_files_of_an_older_run_are_read_listed_and_written_where_they_were(tmp_path):
    run = older_run(tmp_path)
    place = layout.corpus_shard("web", 12)
    assert run.read(place.record) == b"corpus/web/000012.json"
    assert run.list(layout.records_folder("corpus/web"), suffix=".json") == ["000012.json"]
    index = run / layout.index_folder("web")
    assert index.read("index.json") == b"corpus/web/index/index.json"
    assert index.address("index.json") == str(tmp_path / "corpus/web/index/index.json")
    run.create(place.tar, b"tar")
    index.put("parts/00000.parquet", b"part")
    assert (tmp_path / "corpus/web/000012.tar").read_bytes() == b"tar"
    assert (tmp_path / "corpus/web/index/00000.parquet").read_bytes() == b"part"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "corpus"]


@pytest.mark.parametrize(
    ("names", "is_older"),
    [
        ((), False),
        (("config.yaml",), False),
        (("nodes", "lease", "corpus"), False),  # its files were written without a config: no run
        (("config.yaml", "corpus", "nodes"), True),
        (("config.yaml", "corpus", "records"), False),
        (("config.yaml", "records"), False),
    ],
)
def test_a_run_is_older_if_it_has_a_corpus_and_no_records(names, is_older):
    assert layout.has_older_layout(names) is is_older


def test_the_layout_is_found_by_one_listing_and_is_passed_on(tmp_path, monkeypatch):
    older_run(tmp_path)
    listed = []
    plain = Store.list
    monkeypatch.setattr(Store, "list", lambda self, *args: listed.append(self.url) or plain(self, *args))
    run = RunStore(str(tmp_path))
    run.put("nodes/fetch.json", b"{}")
    assert listed == []
    for _ in range(3):
        run.find(layout.corpus_shard("web", 12).record)
    assert listed == [str(tmp_path)]
    for copy in (pickle.loads(pickle.dumps(run)), run / layout.index_folder("web")):
        assert copy.is_older and listed == [str(tmp_path)]
