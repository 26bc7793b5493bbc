"""The recipes of the downstream tasks: the values of Table 14, and a tiny twin of each that runs."""

from pathlib import Path

import pytest
import yaml

from capfilt.pipeline.config.load import load_config
from tests.pipeline.tasks.task_run import LocalTasks, make_data, run_nodes, start_of, task_data

FOLDER = Path(__file__).parents[3] / "configs/recipes/tasks"
TABLE_14 = {  # learning rate, epochs, image size; the batch size is 256
    "vqa": (2e-5, 10, 480),
    "nlvr2": (3e-5, 15, 384),
    "retrieval-coco": (1e-5, 6, 384),
    "retrieval-flickr30k": (1e-5, 6, 384),
    "caption-coco": (1e-5, 5, 384),
    "visdial": (2e-5, 20, 384),  # its image size is not in the table
}
BATCH = {"visdial": 240}
ZERO_SHOT = {"msrvtt-retrieval": (8, 384), "msrvtt-qa": (16, 480)}  # section 5.6: frames, and their size
K = {"vqa": 128, "retrieval-coco": 256, "retrieval-flickr30k": 128, "msrvtt-retrieval": 128}


def test_every_recipe_is_in_the_table():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*TABLE_14, *ZERO_SHOT}


@pytest.mark.parametrize("name", TABLE_14)
def test_values_are_those_of_table_14(name):
    (task,) = load_config(FOLDER / f"{name}.yaml").tasks.values()
    train = task.finetune
    assert (train.optimizer.lr, train.epochs, train.image_size) == TABLE_14[name]
    assert (train.batch_size, train.optimizer.weight_decay) == (BATCH.get(name, 256), 0.05)
    assert train.optimizer.schedule == "cosine"
    assert K.get(name, task.k) == task.k


@pytest.mark.parametrize("name", ZERO_SHOT)
def test_videos_are_evaluated_zero_shot_as_in_the_paper(name):
    (task,) = load_config(FOLDER / f"{name}.yaml").tasks.values()
    assert task.finetune is None and not task.data.train
    assert (task.frames_per_video, task.evaluate.caption.image_size) == ZERO_SHOT[name]
    assert K.get(name, task.k) == task.k


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipes")
    make_data(folder)
    return folder


@pytest.mark.parametrize("name", [*TABLE_14, *ZERO_SHOT])
def test_a_tiny_twin_is_finetuned_and_evaluated(name, folder, tmp_path, monkeypatch):
    """Unchanged are losses, schedule, augmentation, prompt, lengths and decoding."""
    local = LocalTasks(monkeypatch)
    data = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    data["run"]["dir"] = str(tmp_path / "run")
    ((label, task),) = data["tasks"].items()
    files = task_data(folder, task["kind"])
    task |= {"checkpoint": str(folder / start_of(task["kind"])), "tokenizer": None}
    if name in ZERO_SHOT:
        task["data"], task["evaluate"]["caption"]["image_size"] = {"test": files["test"]}, 32
        run = run_nodes(data, f"data.{label}", f"task.{label}")
        result = run.ledger.node(f"task.{label}").task
        assert {result["metric"], "chance"} <= set(result["scores"])
        return
    task["data"] = {"train": {"shapes": files["train"]}, "test": files["test"]}
    task["finetune"] |= {"steps": 2, "epochs": None, "batch_size": 8, "image_size": 32, "decode_threads": 0}
    task["finetune"] |= {"workers": {"gpus_per_worker": 0}, "checkpoint_layers": 1}
    if "queue_size" in task["finetune"]["objective"]:
        task["finetune"]["objective"]["queue_size"] = 16
    task.get("evaluate", {}).pop("answers", None)
    run = run_nodes(data, f"data.{label}", f"finetune.{label}", f"task.{label}")
    assert local.trained[f"finetune.{label}"].step == 2
    result = run.ledger.node(f"task.{label}").task
    assert {result["metric"], "start", "chance"} <= set(result["scores"])
