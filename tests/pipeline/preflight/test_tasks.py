"""`capfilt check` opens the files of downstream tasks and counts their samples; `verify` hashes them."""

import io
import json
import shutil

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.streams import SafeConsole
from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from capfilt.pipeline.maintenance.repair import repair
from capfilt.pipeline.maintenance.verify import verify_run
from capfilt.pipeline.preflight.check import run_preflight
from capfilt.pipeline.preflight.page import print_preflight
from capfilt.pipeline.preflight.tasks import SplitCheck
from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.taskdata.records import TaskDataError
from tests.pipeline.tasks.task_run import LocalTasks, config_data, make_data, run_nodes
from tests.runs import writable


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preflight")
    make_data(folder)
    make_shapes(ShapesConfig(human=1, web=1, test=1, labeled=6, image_size=32), folder / "labeled")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "data")


def checked(folder, kind, **changes):
    data = config_data(folder, kind)
    for name, value in changes.items():
        data["tasks"]["quiz"]["data"]["test"][name] = value
    del data["tasks"]["quiz"]["checkpoint"], data["tasks"]["quiz"]["finetune"]
    data["tasks"]["quiz"]["checkpoint"] = str(folder / "start")
    if kind == "vqa":
        (folder / "answers.json").write_text('["yes"]')
        data["tasks"]["quiz"]["evaluate"] = {"answers": str(folder / "answers.json")}
    if kind == "classification":
        data["tasks"]["quiz"]["data"] = {"test": {"images": str(folder / "labeled/labeled")}}
    return run_preflight(parse_config(data, "c.yaml"))


@pytest.mark.parametrize(
    ("kind", "train", "test"),
    [
        ("vqa", (24, 72), (6, 18)), ("nlvr2", (24, 48), (6, 12)), ("retrieval", (30, 30), (10, 10)),
        ("caption", (30, 30), (10, 10)), ("classification", (0, 0), (6, 6)),
    ],
)  # fmt: skip
def test_samples_are_counted(folder, kind, train, test):
    found = checked(folder, kind).tasks["quiz"]
    for split, (images, samples) in (("train", train), ("test", test)):
        assert found.splits[split] == SplitCheck(images=images, samples=samples)


def test_page_shows_samples_and_what_will_fail(folder):
    entries = json.loads((folder / "shapes/test/annotations.json").read_text())
    entries[0]["image"] = "images/none.jpg"
    (folder / "shapes/test/annotations.json").write_text(json.dumps(entries))
    lines = (folder / "shapes/nlvr2/train.jsonl").read_text()
    (folder / "shapes/nlvr2/train.jsonl").write_text(lines + '{"identifier": "a-b"}\n')
    stream = io.StringIO()
    print_preflight(SafeConsole(file=stream, width=100), checked(folder, "retrieval"), full=False)
    assert "quiz          train: 30 samples of 30 images, task retrieval\n" in stream.getvalue()
    assert "will fail: the folder has no images/none.jpg" in stream.getvalue()
    print_preflight(SafeConsole(file=stream, width=100), checked(folder, "nlvr2"), full=False)
    assert "train: 48 samples of 24 pairs of images, task nlvr2" in stream.getvalue()
    assert "    1 records cannot be used (first: " in stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "changes", "error", "message"),
    [
        ("vqa", {"file": "none.json"}, ManifestError, r"^tasks\.quiz\.data\.test\.file: .*none\.json"),
        ("vqa", {"annotations": "none.json"}, ManifestError, r"^tasks\.quiz\.data\.test\.annotations: "),
        ("nlvr2", {"file": "{f}/shapes/shapes.json"}, TaskDataError, r"has no statements"),
        (
            "vqa",
            {"file": "{f}/shapes/human/annotations.json"},
            TaskDataError,
            r"\.annotations: only the questions",
        ),
        ("retrieval", {"images": "/none"}, TaskDataError, r"data\.test: there is no folder /none \(images\)"),
    ],
)
def test_missing_files_other_layouts_and_missing_folders_are_one_line(folder, kind, changes, error, message):
    changes = {name: value.format(f=folder) for name, value in changes.items()}
    with pytest.raises(error, match=message) as caught:
        checked(folder, kind, **changes)
    assert "\n" not in str(caught.value)
    assert not (folder / "run").exists()


def test_files_that_the_run_makes_are_not_missed(folder):
    data = config_data(folder / "later", "nlvr2")
    data["shapes"], data["shapes_dir"] = {"statements": 4}, str(folder / "later/shapes")
    data["tasks"]["quiz"]["checkpoint"] = str(folder / "start")
    assert run_preflight(parse_config(data, "c.yaml")).tasks["quiz"].splits == {}


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["tasks/quiz/train/000000.parquet", "tasks/quiz/test/000000.parquet"])
@pytest.mark.parametrize("harm", [damage, lambda path: path.unlink()])
def test_verify_hashes_the_samples_and_repair_reads_them_again(folder, monkeypatch, name, harm):
    LocalTasks(monkeypatch)
    data = config_data(folder, "nlvr2")
    run = run_nodes(data, "data.quiz")
    found = verify_run(run.run_dir)
    size = sum(path.stat().st_size for path in (folder / "run/tasks").rglob("*.parquet"))
    assert (found.problems, found.shards, found.bytes) == ([], 2, size)
    before = (folder / "run" / name).read_bytes()
    harm(folder / "run" / name)
    (problem,) = verify_run(run.run_dir).problems
    assert (problem.place, problem.node) == (name.rpartition("/")[0], "data.quiz")
    assert "000000.parquet is " in problem.what
    assert repair(writable(parse_config(data, "c.yaml")), [problem])[0] == "data.quiz"
    run_nodes(data, "data.quiz")
    assert (folder / "run" / name).read_bytes() == before and verify_run(run.run_dir).problems == []


def test_a_damaged_record_of_the_data_is_a_problem(folder, monkeypatch):
    LocalTasks(monkeypatch)
    run = run_nodes(config_data(folder, "nlvr2"), "data.quiz")
    (folder / "run/records/tasks/quiz/data.json").write_text("{")
    (problem,) = verify_run(run.run_dir).problems
    assert problem.place == "records/tasks/quiz/data.json" and problem.what.startswith("damaged (")
