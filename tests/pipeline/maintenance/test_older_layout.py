"""A run directory of an earlier version, in which the records lie beside the files: every command goes on in
that form."""

import pytest

from capfilt.pipeline.maintenance.repair import repair_run
from capfilt.pipeline.maintenance.verify import verify_run
from capfilt.pipeline.prepare import discard
from capfilt.stages.storage.layout import older_place
from tests.pipeline.maintenance.partial_run import LATE_IMAGES, PartialRun
from tests.runs import walk


@pytest.fixture
def older(done_run):
    """The done run with its files where earlier versions had them."""
    for name in walk(done_run.store):
        (done_run.path / older_place(name)).parent.mkdir(parents=True, exist_ok=True)
        (done_run.path / name).rename(done_run.path / older_place(name))
    for folder in ("records", "images", "manifests"):
        for empty in sorted(done_run.path.glob(f"{folder}/**"), reverse=True):
            empty.rmdir()
    (done_run.path / "config.yaml").write_text("")
    return PartialRun(done_run.folder)


def folders(run):
    """Folders that hold files."""
    return sorted({name.partition("/")[0] for name in walk(run.store) if "/" in name})


FOLDERS = ["corpus", "nodes", "reports", "rounds"]


def test_it_verifies_and_a_damaged_shard_is_made_again_in_place(older):
    assert folders(older) == FOLDERS
    found = verify_run(older.run_dir)
    assert (found.problems, found.shards, found.rows) == ([], 6, 18)
    (older.path / "corpus/web/000001.tar").write_bytes(b"")
    found, reopened = repair_run(older.run_dir)
    assert [problem.place for problem in found.problems] == ["corpus/web/000001"]
    assert reopened == ["bootstrap.1", "report.1"]
    assert not (older.path / "corpus/web/000001.json").exists()
    assert not (older.path / "rounds/1/web/000001.json").exists()
    assert older.ledger.committed_shards("corpus/web") == [0, 2]
    (older.path / "corpus/web/000001.parquet").unlink()
    older.fetch()
    assert older.ledger.committed_shards("corpus/web") == [0, 1, 2]
    assert older.path.joinpath("corpus/web/000001.json").exists()
    assert [problem.place for problem in verify_run(older.run_dir).problems] == []
    assert folders(older) == ["corpus", "nodes", "rounds"]  # the report is made again by the run


def test_failed_rows_are_retried_in_place(older):
    for name in LATE_IMAGES:
        older.draw(name)
    assert [each["status"] for each in older.stage("missing_file")] == [{"success": 1}] * 2
    changed, _ = older.publish()
    assert [each.shard for each in changed] == [0, 1]
    assert older.statuses(0) == older.statuses(1) == ["success"] * 3
    assert sorted(path.name for path in (older.path / "rounds/1/web").glob("*.json")) == ["000002.json"]
    assert not {"records", "images", "manifests"} & set(folders(older))


def test_a_damaged_index_is_named_and_removed_in_place(older):
    (older.path / "corpus/web/index/00000.parquet").write_bytes(b"")
    found, _ = repair_run(older.run_dir)
    assert [problem.place for problem in found.problems] == ["corpus/web/index/index.json"]
    assert not (older.path / "corpus/web/index/index.json").exists()


def test_its_images_can_be_fetched_afresh(older):
    discard(older.run_dir, ["fetch"])
    assert walk(older.store) == ["config.yaml"]


def test_config_is_saved_without_the_mark_of_this_layout(older):
    older.ledger.save_config("a: 1")
    assert older.run_dir.store.is_older and folders(older) == FOLDERS


def test_a_new_run_has_the_mark_before_its_config(partial_run, monkeypatch):
    written = []
    monkeypatch.setattr(type(partial_run.store), "put", lambda store, name, data: written.append(name))
    partial_run.ledger.save_config("a: 1")
    assert written == ["records/layout.json", "config.yaml"]
