"""Tasks from their files to metrics.json, in this process: every kind, resumption, and mistakes."""

import json
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from capfilt.cluster.training import trainer
from capfilt.cluster.training.trainer import Worker
from capfilt.pipeline.config.load import ConfigError, parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.plan import plan
from capfilt.pipeline.tasks.shards import ShardJob, write_shard
from capfilt.stages.storage.layout import task_shard
from capfilt.stages.storage.store import Store
from capfilt.stages.taskdata.records import TaskDataError, TaskRecord
from capfilt.stages.videos.support import VideoSupportMissing
from tests.local_run import local_run
from tests.pipeline.tasks.task_run import LocalTasks, config_data, make_data, run_nodes
from tests.tiny import tiny_data

METRICS = {
    "vqa": "vqa_score",
    "nlvr2": "accuracy",
    "retrieval": "r_mean",
    "caption": "cider",
    "visdial": "mrr",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    make_data(folder)
    return folder


@pytest.fixture
def local(monkeypatch):
    return LocalTasks(monkeypatch)


@pytest.mark.parametrize("kind", METRICS)
def test_a_task_ends_in_metrics_beside_chance_and_start(kind, folder, local, tmp_path):
    data = config_data(folder, kind)
    data["run"]["dir"] = str(tmp_path / "run")
    run = run_nodes(data)
    assert list(run.run_dir.nodes) == ["data.quiz", "finetune.quiz", "task.quiz", "report.0"]
    scores = run.store.read_json("reports/0/metrics.json")["tasks"]["quiz"]
    assert {METRICS[kind], "start", "chance"} <= set(scores)
    assert all(isinstance(value, float) and 0 <= value <= 1000 for value in scores.values())
    assert local.trained["finetune.quiz"].step == 4
    page = run.store.read("reports/0/report.html").decode()
    assert "Downstream tasks" in page and "quiz" in page
    results = {
        name: run.store.read(f"results/task.quiz/{name}") for name in run.store.list("results/task.quiz")
    }
    assert set(results) == {
        "vqa": {"answers.json", "answers_generated.json"}, "nlvr2": {"predictions.csv"},
        "caption": {"captions.json"}, "retrieval": set(), "visdial": {"ranks.json"},
        "video_retrieval": set(), "video_qa": {"answers.json", "answers_generated.json"},
    }[kind]  # fmt: skip
    if kind == "vqa":
        assert len(json.loads(results["answers.json"])) == 6 * 3


def weights_of(run):
    return run.store.read("models/finetune.quiz/model.safetensors")


@pytest.mark.parametrize("kind", ["vqa", "nlvr2", "visdial", "video_qa"])
def test_a_training_that_was_interrupted_continues_exactly(kind, folder, local, tmp_path, monkeypatch):
    data = config_data(folder, kind)
    data["run"]["dir"] = str(tmp_path / "whole")
    whole = weights_of(run_nodes(data, "data.quiz", "finetune.quiz"))

    def fit_twice(job):
        first = job.build(Worker(0, 1, torch.device("cpu")))
        for _ in range(2):
            first.train_step()
        (tmp_path / "saved").mkdir()
        first.save(str(tmp_path / "saved"))
        second = job.build(Worker(0, 1, torch.device("cpu")))
        second.load(str(tmp_path / "saved"))
        while second.step < second.total_steps:
            second.train_step()
        second.finish()

    monkeypatch.setattr(trainer, "fit", fit_twice)
    data["run"]["dir"] = str(tmp_path / "resumed")
    assert weights_of(run_nodes(data, "data.quiz", "finetune.quiz")) == whole


def test_missing_images_and_broken_records_are_rows_with_a_reason(folder, local, tmp_path):
    data = config_data(folder, "vqa")
    data["run"]["dir"] = str(tmp_path / "run")
    files = data["tasks"]["quiz"]["data"]["train"]["shapes"]
    document = json.loads(Path(files["file"]).read_text())
    document["questions"] += [{"question_id": 900, "image_id": 0}]
    document["questions"] += [{"question_id": 901, "image_id": 777, "question": "what?"}]
    annotations = json.loads(Path(files["annotations"]).read_text())
    annotations["annotations"].append({"question_id": 901, "answers": [{"answer": "x"}]})
    for name, content in (("file", document), ("annotations", annotations)):
        files[name] = str(tmp_path / f"{name}.json")
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    run = run_nodes(data, "data.quiz")
    samples = run.ledger.node("data.quiz").counts["samples"]["train"]
    assert samples == {"bad_record": 1, "missing_file": 1, "success": 72}
    rows = pq.read_table(tmp_path / "run/tasks/quiz/train").to_pylist()
    failed = {row["status"]: row["error_message"] for row in rows if row["status"] != "success"}
    assert failed["bad_record"] == "'question' is missing" and failed["missing_file"].startswith(
        "000777.jpg: "
    )
    (tmp_path / "file.json").write_text(json.dumps(document) + " ")
    with pytest.raises(TaskDataError, match=r"^tasks\.quiz\.data: the files have changed .*--fresh data"):
        local_run(parse_config(data, "c.yaml"))


def test_shards_of_an_attempt_that_died_are_kept_unless_the_files_have_changed(folder, local, tmp_path):
    data = config_data(folder, "nlvr2")
    data["run"]["dir"] = str(tmp_path / "run")
    run_nodes(data, "data.quiz")
    shard = tmp_path / "run/tasks/quiz/train/000000.parquet"
    before = (shard.stat().st_mtime_ns, shard.read_bytes())
    (tmp_path / "run/nodes/data.quiz.json").unlink()
    (tmp_path / "run/records/tasks/quiz/data.json").unlink()
    run_nodes(data, "data.quiz")
    assert (shard.stat().st_mtime_ns, shard.read_bytes()) == before


def test_no_usable_sample_is_a_failure_that_names_the_key(folder, local, tmp_path):
    data = config_data(folder, "vqa")
    data["run"]["dir"] = str(tmp_path / "run")
    data["tasks"]["quiz"]["data"]["train"]["shapes"]["images"] = str(tmp_path)
    with pytest.raises(NodeFailed, match=r"^tasks\.quiz\.data\.train: no sample has its image \(72 "):
        run_nodes(data, "data.quiz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "quiz"}, r"tasks\.quiz\.kind"),
        ({"rounds": [0]}, "checkpoint and rounds are given"),
        ({"checkpoint": None}, r"tasks\.quiz\.checkpoint: missing; this run pretrains no model"),
        ({"finetune": {"objective": {"losses": ["itc"]}}}, "a task of kind vqa trains with lm"),
        ({"evaluate": {"k": 0}}, r"tasks\.quiz\.evaluate\.k"),
        ({"negatives": 2}, "negatives: only for kind visdial; remove the key"),
        ({"frames": 4}, "frames: only for kind video_retrieval, video_qa; remove the key"),
    ],
)
def test_mistakes_in_a_task_are_one_line(folder, changes, message):
    data = config_data(folder, "vqa")
    data["tasks"]["quiz"] |= changes
    with pytest.raises(ConfigError, match=message) as error:
        parse_config(data, "c.yaml")
    assert "\n" not in str(error.value).strip()


def test_keys_of_other_kinds_are_refused(folder):
    data = config_data(folder, "nlvr2")
    data["tasks"]["quiz"]["data"]["test"]["annotations"] = "a.json"
    with pytest.raises(
        ConfigError,
        match=r"data\.test\.annotations: only for kind vqa, visdial, video_retrieval; remove the key",
    ):
        parse_config(data, "c.yaml")
    data = config_data(folder, "caption")
    data["tasks"]["quiz"]["evaluate"] = {"answers": "a.json"}
    with pytest.raises(ConfigError, match=r"evaluate\.answers: only for kind vqa, video_qa"):
        parse_config(data, "c.yaml")


def test_tasks_of_several_rounds_compare_their_models(folder, tmp_path):
    data = tiny_data(tmp_path, rounds=2)
    task = config_data(folder, "vqa")["tasks"]["quiz"]
    del task["checkpoint"]
    data["tasks"] = {"all": task | {"rounds": [0, 2]}, "last": task}
    nodes = plan(parse_config(data, "c.yaml"))
    assert nodes["finetune.all.0"].needs == ("pretrain.0", "data.all")
    assert nodes["task.all.2"].needs == ("data.all", "pretrain.2", "finetune.all.2")
    assert "task.all.0" in nodes["report.1"].needs and "task.last.2" in nodes["report.2"].needs
    assert "task.last.1" not in nodes
    data["tasks"]["all"]["rounds"] = [3]
    with pytest.raises(ConfigError, match=r"tasks\.all\.rounds: no pretrain\.3 .*allowed: 0, 1, 2"):
        parse_config(data, "c.yaml")


def test_left_out_keys_of_a_finetuning_are_those_of_the_paper(folder):
    data = config_data(folder, "vqa")
    data["tasks"]["quiz"]["finetune"] = {}
    found = parse_config(data, "c.yaml").tasks["quiz"].finetune
    assert (found.epochs, found.batch_size, found.image_size) == (10, 256, 480)
    assert (found.optimizer.lr, found.optimizer.schedule, found.optimizer.weight_decay) == (
        2e-5,
        "cosine",
        0.05,
    )


def test_broken_videos_are_rows_with_a_reason_and_frames_are_those_of_the_config(folder, local, tmp_path):
    data = config_data(folder, "video_retrieval")
    data["run"]["dir"] = str(tmp_path / "run")
    data["tasks"]["quiz"]["frames"] = 3
    videos = tmp_path / "videos"
    shutil.copytree(folder / "shapes/videos/files", videos)
    (videos / "video0.mp4").write_bytes((videos / "video0.mp4").read_bytes()[:300])
    (videos / "video1.mp4").unlink()
    data["tasks"]["quiz"]["data"]["train"]["shapes"]["images"] = str(videos)
    run = run_nodes(data, "data.quiz")
    samples = run.ledger.node("data.quiz").counts["samples"]
    assert samples == {"test": {"success": 3}, "train": {"decode": 1, "missing_file": 1, "success": 10}}
    rows = pq.read_table(tmp_path / "run/tasks/quiz/train").to_pylist()
    failed = {row["status"]: row["error_message"] for row in rows if row["status"] != "success"}
    assert failed["decode"].startswith("video0.mp4: cannot decode the video (")
    assert {len(row["images"]) for row in rows if row["status"] == "success"} == {3}


def test_videos_are_answered_without_a_finetuning_and_without_a_list_of_answers(folder, local, tmp_path):
    data = config_data(folder, "video_qa")
    data["run"]["dir"] = str(tmp_path / "run")
    task = data["tasks"]["quiz"]
    del task["finetune"], task["data"]["train"]
    run = run_nodes(data)
    scores = run.store.read_json("reports/0/metrics.json")["tasks"]["quiz"]
    assert {"accuracy", "chance", "how", "what"} == set(scores)
    assert run.store.list("results/task.quiz") == ["answers_generated.json"]


def test_an_image_that_may_be_at_several_places_is_found_at_the_next(folder, tmp_path):
    paths = ("a.jpg", "train2014/a.jpg", "val2014/a.jpg")
    image = next((folder / "shapes/visdial/train").glob("*.jpg")).read_bytes()
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014/a.jpg").write_bytes(image)
    records = tuple(TaskRecord(key=str(i), images=paths[:1], alternatives=paths[1 : 3 - i]) for i in (0, 1))
    store = Store(str(tmp_path / "run"))
    job = ShardJob(
        run_dir=store, task="t", kind="caption", split="test", shard=0, records=records,
        images=str(tmp_path), identity="x",
    )  # fmt: skip
    assert write_shard(job).samples == {"missing_file": 1, "success": 1}
    first, second = pq.read_table(tmp_path / "run" / task_shard("t", "test", 0)).to_pylist()
    assert first["images"] == [image] and second["error_message"].startswith("a.jpg: ")


def test_dialogs_need_a_model_whose_encoders_are_equally_wide(folder, tmp_path):
    data = tiny_data(tmp_path, rounds=1)
    task = config_data(folder, "visdial")["tasks"]["quiz"]
    del task["checkpoint"]
    data["tasks"] = {"quiz": task}
    assert "finetune.quiz.1" in plan(parse_config(data, "c.yaml"))
    data["model"]["med"]["vision"]["width"] = 32
    with pytest.raises(ConfigError, match=r"tasks\.quiz\.kind: .* equal widths; .*width is 32, .* 16"):
        parse_config(data, "c.yaml")


def test_videos_without_their_decoder_are_refused_before_anything_is_read(
    folder, local, tmp_path, monkeypatch
):
    data = config_data(folder, "video_qa")
    data["run"]["dir"] = str(tmp_path / "run")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(
        VideoSupportMissing, match=r"^tasks with videos need PyAV .*install 'capfilt\[video\]'$"
    ):
        local_run(parse_config(data, "c.yaml"))
