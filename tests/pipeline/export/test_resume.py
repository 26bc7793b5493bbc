"""An export that is killed at any step goes on with the same command, and ends as if nothing had happened."""

import json

import pytest

from capfilt.pipeline.export.target import ExportError
from capfilt.stages.storage.store import Store, sha256
from tests.killing import Killed, kill_at
from tests.pipeline.export.exported_run import export, make_run
from tests.runs import walk

FORMS = ("webdataset", "open_clip", "hf", "parquet", "datacomp-uids", "blip-json")
STEPS = ("put", "put_file", "create", "remove", "remove_file")


def is_no_probe(store, name, *arguments):
    """Whether a call writes or removes something of the export; the probe of the folder is none."""
    return "probe" not in name


def content(store):
    return {name: store.read(name) for name in walk(store)}


@pytest.fixture(scope="module")
def complete(exported_run, tmp_path_factory):
    """{form: {file: content}} of exports that nothing interrupted."""
    found = {}
    for form in FORMS:
        folder = tmp_path_factory.mktemp(form)
        export(exported_run, folder, form, human=True)
        found[form] = content(Store(str(folder)))
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_kill_at_every_step_loses_and_doubles_nothing(exported_run, complete, tmp_path, monkeypatch, form):
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    step = 0
    while True:
        out = tmp_path / str(step)
        with monkeypatch.context() as patch:
            done = kill_at(patch, step, Store, STEPS, counts=is_no_probe)
            try:
                export(exported_run, out, form, human=True)
            except Killed:
                pass
            else:
                break
        assert len(done) == step
        export(exported_run, out, form, human=True)
        assert content(Store(str(out))) == complete[form]
        step += 1
    assert step > 10


def test_the_same_export_again_changes_nothing(exported_run, tmp_path):
    first = export(exported_run, tmp_path, "hf")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    again = export(exported_run, tmp_path, "hf")
    assert (first.before, again.before) == ("new", "done")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert again.summary == first.summary


def test_a_file_that_a_dead_attempt_of_another_version_left_does_not_count(exported_run, complete, tmp_path):
    store = Store(str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, 3, Store, STEPS, counts=is_no_probe)
        with pytest.raises(Killed):
            export(exported_run, tmp_path, "parquet", human=True)
    store.put("data/000004.parquet", b"half a file of another version")
    export(exported_run, tmp_path, "parquet", human=True)
    assert content(store) == complete["parquet"]


def test_an_export_to_s3_equals_one_on_a_disk_also_after_a_kill(healthy_s3, tmp_path, monkeypatch):
    options = {"endpoint_url": healthy_s3.endpoint}
    run_dir = make_run(tmp_path, "s3://bucket/exported", options)
    for form in ("open_clip", "datacomp-uids", "hf"):
        here, there = tmp_path / form, f"s3://bucket/out-{form}"
        with monkeypatch.context() as patch:
            kill_at(patch, 5, Store, STEPS, counts=is_no_probe)
            with pytest.raises(Killed):
                export(run_dir, there, form, human=True)
        export(run_dir, there, form, human=True)
        export(run_dir, here, form, human=True)
        assert content(Store(there, options)) == content(Store(str(here)))


def test_the_record_names_run_verdicts_counts_and_files(exported_run, tmp_path):
    export(exported_run, tmp_path, "parquet", human=True)
    record = json.loads((tmp_path / "capfilt-export.json").read_text())
    assert (record["run"], record["round"], record["verdicts"]) == (exported_run.store.url, 1, "default")
    store = Store(str(tmp_path))
    for file in record["files"]:
        data = store.read(file["name"])
        assert (file["bytes"], file["sha256"]) == (len(data), sha256(data))
    assert {file["name"] for file in record["files"]} == set(walk(store)) - {"capfilt-export.json"}


@pytest.mark.parametrize(
    ("form", "request_", "message"),
    [
        ("parquet", {"human": True}, "holds another export (human was false and is now true)"),
        ("hf", {}, "holds another export (columns"),
    ],
)
def test_a_folder_with_another_export_is_refused(exported_run, tmp_path, form, request_, message):
    export(exported_run, tmp_path, "parquet", columns=())
    before = content(Store(str(tmp_path)))
    if form == "parquet":
        request_ = request_ | {"columns": ()}
    with pytest.raises(ExportError) as error:
        export(exported_run, tmp_path, form, **request_)
    assert message in str(error.value)
    assert content(Store(str(tmp_path))) == before
