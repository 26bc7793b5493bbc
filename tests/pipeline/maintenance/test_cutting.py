"""A damaged index whose manifest has changed too: no shard may get the number of other rows."""

import csv

import pytest

from capfilt.pipeline.maintenance.repair import repair_run
from capfilt.pipeline.rundir.cutting import cut_manifest
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.storage.layout import INDEX_PARTS, index_folder
from tests.runs import walk

INDEX = index_folder("web")


@pytest.fixture
def run(done_run):
    return done_run


def write_manifest(run, rows):
    with open(run.folder / "manifest.csv", "w", newline="") as stream:
        csv.writer(stream).writerows([("url", "caption"), *rows])


def rows_of_the_run():
    return [(f"p{i}.png", f"text {i}") for i in range(9)]


def files(run):
    return {name: run.store.read(name) for name in walk(run.store) if not name.startswith("lease/")}


def damage_part(run):
    run.store.put(f"{INDEX}/{INDEX_PARTS}/00000.parquet", b"damaged")


def remove_record(run):
    run.store.remove_file(f"{INDEX}/index.json")


def damage_record(run):
    run.store.put(f"{INDEX}/index.json", b"{")


OTHER_ROWS = [
    rows_of_the_run()[1:],
    rows_of_the_run()[::-1],
    [("new.png", "new"), *rows_of_the_run()],
    rows_of_the_run()[:3],
    [*rows_of_the_run()[:8], ("new.png", "text 8")],
]


@pytest.mark.parametrize("rows", OTHER_ROWS)
def test_a_repair_that_would_cut_other_rows_is_refused_and_removes_nothing(run, rows):
    damage_part(run)
    write_manifest(run, rows)
    before = files(run)
    with pytest.raises(ManifestError) as error:
        repair_run(run.run_dir)
    line = str(error.value)
    assert line.startswith(
        "sources.web.rows.manifest: the index of this source is damaged, and the manifest has"
    )
    assert "restore the manifest" in line and "--fresh fetch" in line and "\n" not in line
    assert files(run) == before


@pytest.mark.parametrize("rows", OTHER_ROWS)
@pytest.mark.parametrize("damage", [remove_record, damage_record])
def test_where_the_index_does_not_say_it_the_rows_of_the_shards_are_compared(run, damage, rows):
    damage(run)
    write_manifest(run, rows)
    repair_run(run.run_dir)
    for _ in range(2):  # the next command finds it again
        with pytest.raises(ManifestError) as error:
            cut_manifest(run.run_dir, "web")
        assert "of this run has other rows than the manifest has now" in str(error.value)
        assert "\n" not in str(error.value) and not run.store.exists(f"{INDEX}/index.json")
    write_manifest(run, rows_of_the_run())
    assert cut_manifest(run.run_dir, "web").rows == 9


@pytest.mark.parametrize("damage", [damage_part, remove_record, damage_record])
def test_rows_behind_those_of_the_run_and_a_restored_manifest_are_fine(run, damage):
    damage(run)
    repair_run(run.run_dir)
    assert cut_manifest(run.run_dir, "web").shards == 3
    damage_record(run)
    write_manifest(run, [*rows_of_the_run(), ("new.png", "new")])
    repair_run(run.run_dir)
    assert cut_manifest(run.run_dir, "web").shards == 4
    assert cut_manifest(run.run_dir, "web").shards == 4
