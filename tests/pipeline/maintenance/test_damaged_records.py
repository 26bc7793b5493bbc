"""Damaged JSON in a run directory: `verify` names it, commands stop with one line, `--repair` fixes it."""

import pytest

from capfilt.pipeline.maintenance.repair import repair_run
from capfilt.pipeline.rundir.generations import find_replacements
from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.index import check_unchanged
from tests.pipeline.maintenance.partial_run import LATE_IMAGES
from tests.pipeline.maintenance.test_repair import INDEX, edit, problems, truncate, verify_and_repair


@pytest.fixture
def run(done_run):
    return done_run


@pytest.mark.parametrize("key", ["identity", "rows", "shards", "tars", "files", "parts", "checksum"])
@pytest.mark.parametrize("where", ["key", "value"])
def test_changed_index_is_named_and_cut_again(run, key, where):
    name = f"{INDEX}/index.json"
    content = run.store.read_json(name)
    if where == "key":
        content["x" + key] = content.pop(key)
    else:
        value = content[key]
        content[key] = value + 1 if isinstance(value, int) else value[:-1]
    run.store.put_json(name, content)
    if (key, where) == ("checksum", "key"):  # as an earlier version wrote it
        assert problems(run) == []
        return
    (line,) = problems(run)
    assert line.startswith(f"{name}: damaged (")
    rows = run.config.sources["web"].rows
    with pytest.raises(ManifestError, match=r"index\.json: damaged .*--repair fixes it") as error:
        check_unchanged(rows, run.store / INDEX, "sources.web")
    assert "\n" not in str(error.value)
    verify_and_repair(run)
    run.fetch(shards=0)
    assert problems(run) == []
    check_unchanged(rows, run.store / INDEX, "sources.web")


def test_index_of_an_earlier_version_names_the_file_to_remove(run):
    name = f"{INDEX}/index.json"
    edit(run, name, identity="0" * 64, checksum="")
    with pytest.raises(ManifestError, match=r"if neither has changed, remove .*/manifests/web/index\.json"):
        check_unchanged(run.config.sources["web"].rows, run.store / INDEX, "sources.web")


@pytest.mark.parametrize("name", ["bootstrap.1.json", "bootstrap.1.started.json"])
def test_inputs_that_are_not_those_of_the_fingerprint_are_damage(run, name):
    if "started" in name:
        run.ledger.reopen("bootstrap.1")
    record = run.store.read_json(f"nodes/{name}")
    record["inputs"]["sources"]["web"]["fetch"]["max_bytes"] = 7
    run.store.put_json(f"nodes/{name}", record)
    (line,) = problems(run)
    assert line == f"nodes/{name}: damaged (`inputs` are not those of its fingerprint)"
    with pytest.raises(LedgerError, match="--repair fixes it"):
        run.ledger.state("bootstrap.1", {})
    repair_run(run.run_dir)
    assert problems(run) == [] and len(run.ledger.committed_shards("rounds/1/web")) == 3


@pytest.mark.parametrize("damage", [truncate, lambda run, name: run.store.put(name, b"")])
def test_damaged_record_of_a_staged_shard_is_removed(run, damage):
    for name in LATE_IMAGES:
        run.draw(name)
    run.stage("missing_file")
    damage(run, "replacing/web/000001.json")
    (line,) = problems(run)
    assert line.startswith("replacing/web/000001.json: damaged (")
    repair_run(run.run_dir)
    assert [each.shard for each in find_replacements(run.run_dir)] == [0] and problems(run) == []
