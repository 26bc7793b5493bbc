"""Zero-shot classification from its files to its figures, against a plain computation."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from capfilt.models.checkpoints.load import load_checkpoint
from capfilt.models.images.decode import decode_image
from capfilt.models.images.pixels import normalize, to_pixels
from capfilt.pipeline.config.load import ConfigError, parse_config
from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from capfilt.pipeline.tasks.figures import compute_chance, compute_figures
from capfilt.stages.taskdata.records import TaskDataError
from tests.local_run import local_run
from tests.pipeline.tasks.task_run import LocalTasks, config_data, make_data, run_nodes

TEMPLATES = ["a {}", "there is a {} in the image"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes")
    make_data(folder)
    make_shapes(ShapesConfig(human=1, web=1, test=1, labeled=20, image_size=32), folder / "labeled")
    return folder


def task_config(folder, tmp_path, **evaluate):
    data = config_data(folder, "retrieval")
    data["run"]["dir"] = str(tmp_path / "run")
    data["tasks"]["quiz"] = {
        "kind": "classification",
        "data": {"test": {"images": str(folder / "labeled/labeled")}},
        "evaluate": {"templates": TEMPLATES, **evaluate},
        "checkpoint": str(folder / "start"),
    }
    return data


def plain_scores(folder, labels):
    """{image: [(ITC similarity, ITM log-odds) of each label]}, one prompt at a time."""
    med, tokenizer, _ = load_checkpoint(folder / "start", "filter")
    found = {}
    with torch.no_grad():
        for path in sorted((folder / "labeled/labeled").rglob("*.jpg")):
            pixels = to_pixels([decode_image(path.read_bytes())], med.config.vision.image_size)
            states = med.encode_image(normalize(pixels))
            image, kv = med.image_feature(states)[0].numpy(), med.cross_kv(states, "encoder")
            scores = []
            for label in labels:
                features, odds = [], []
                for template in TEMPLATES:
                    ids, _ = tokenizer.encode([template.format(label)], 35)
                    features.append(med.text_feature(ids)[0].numpy())
                    ids[:, 0] = tokenizer.enc_id
                    logits = med.match(ids, None, kv)[0]
                    odds.append(float(logits[1] - logits[0]))
                mean = np.mean(features, axis=0)
                scores.append((float(image @ mean / np.linalg.norm(mean)), float(np.mean(odds))))
            found[f"{path.parent.name}/{path.name}"] = scores
    return found


@pytest.mark.parametrize("k", [None, 3])
def test_classes_of_images_are_those_of_a_plain_computation(folder, tmp_path, monkeypatch, k):
    LocalTasks(monkeypatch)
    run = run_nodes(task_config(folder, tmp_path, **({} if k is None else {"k": k})))
    assert list(run.run_dir.nodes) == ["data.quiz", "task.quiz", "report.0"]
    lines = run.store.read("results/task.quiz/predictions.jsonl").decode().splitlines()
    predictions = {each["id"]: each for each in map(json.loads, lines)}
    labels = sorted(path.name for path in (folder / "labeled/labeled").iterdir())
    expected = plain_scores(folder, labels)
    assert set(predictions) == set(expected) and len(expected) == 20
    right = Counter()
    for image, scores in expected.items():
        by_itc = sorted(range(len(labels)), key=lambda i: -scores[i][0])
        ranked = sorted(by_itc[: k or 0], key=lambda i: -scores[i][1]) + by_itc[k or 0 :]
        assert predictions[image]["ranked"] == [labels[i] for i in ranked[:5]]
        label = image.partition("/")[0]
        assert predictions[image]["answers"] == [label]
        right["top1"] += labels[ranked[0]] == label
        right["top5"] += label in [labels[i] for i in ranked[:5]]
        right["itc_top1"] += labels[by_itc[0]] == label
    figures = run.store.read_json("reports/0/metrics.json")["tasks"]["quiz"]
    names = ("top1", "top5") if k is None else ("top1", "top5", "itc_top1")
    assert {name: figures[name] for name in names} == {name: 100 * right[name] / 20 for name in names}
    assert ("itc_top5" in figures) == (k is not None)
    most = max(Counter(image.partition("/")[0] for image in expected).values())
    assert figures["chance"] == pytest.approx(100 * most / 20)


def test_figures_of_images_with_several_labels():
    rows = [
        {"id": "1", "answers": ["a"], "ranked": ["a", "b", "c", "d", "e"], "itc": ["b", "a", "c", "d", "e"]},
        {"id": "2", "answers": ["b", "e"], "ranked": ["c", "a", "d", "f", "e"], "itc": ["b"] * 5},
        {"id": "3", "answers": ["a"], "ranked": ["b", "c", "d", "e", "f"], "itc": ["c"] * 5},
    ]
    found = compute_figures("classification", rows)
    assert found == pytest.approx(
        {"top1": 100 / 3, "top5": 200 / 3, "class_mean": 50 / 3, "itc_top1": 100 / 3, "itc_top5": 200 / 3}
    )
    assert compute_chance("classification", rows) == {"chance": pytest.approx(200 / 3)}
    assert compute_figures("classification", []) == {} and compute_chance("classification", []) == {}


def test_files_of_a_folder_that_change_are_refused(folder, tmp_path, monkeypatch):
    LocalTasks(monkeypatch)
    labeled = tmp_path / "own"
    for name in ("cat/1.jpg", "dog/1.jpg"):
        (labeled / name).parent.mkdir(parents=True)
        source = next((folder / "labeled/labeled").rglob("*.jpg"))
        (labeled / name).write_bytes(source.read_bytes())
    data = task_config(folder, tmp_path)
    data["tasks"]["quiz"]["data"]["test"]["images"] = str(labeled)
    run_nodes(data, "data.quiz")
    (labeled / "dog/2.jpg").write_bytes(b"new")
    with pytest.raises(TaskDataError, match=r"^tasks\.quiz\.data: the files have changed .*--fresh data"):
        local_run(parse_config(data, "c.yaml"))


def test_a_class_that_the_list_lacks_is_one_line(folder, tmp_path, monkeypatch):
    LocalTasks(monkeypatch)
    (tmp_path / "classes.json").write_text('["red circle"]')
    data = task_config(folder, tmp_path, classes=str(tmp_path / "classes.json"))
    with pytest.raises(TaskDataError, match=r"^tasks\.quiz\.evaluate\.classes: .* lacks \d+ labels"):
        run_nodes(data, "data.quiz", "task.quiz")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune": {"steps": 1}}, r"finetune: a task of kind classification trains nothing"),
        (
            {"data": {"train": {"a": {"file": "a", "images": "b"}}, "test": {"images": "b"}}},
            r"data\.train: a task",
        ),
        ({"evaluate": {"templates": ["a dog"]}}, r"evaluate\.templates: \['a dog'\]; give texts with \{\}"),
        ({"evaluate": {"templates": []}}, r"evaluate\.templates: \[\]; give texts with \{\}"),
        ({"data": {"test": {"file": "a.csv"}}}, r"tasks\.quiz\.data\.test\.images"),
        (
            {"kind": "nlvr2", "data": {"test": {"file": "a", "images": "b"}}},
            r"only for kind class",
        ),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, changes, message):
    data = task_config(folder, tmp_path)
    data["tasks"]["quiz"] |= changes
    with pytest.raises(ConfigError, match=message) as error:
        parse_config(data, "c.yaml")
    assert "\n" not in str(error.value).strip()


def test_new_keys_are_not_in_the_fingerprint_of_other_kinds(folder, tmp_path):
    data = config_data(folder, "vqa")
    data["run"]["dir"] = str(tmp_path / "run")
    run = local_run(parse_config(data, "c.yaml"))
    assert set(run.fingerprints.inputs("task.quiz")["evaluate"]) == {"k", "answers", "caption"}


def test_labeled_shapes_show_one_object_of_their_folder(folder):
    paths = sorted((folder / "labeled/labeled").rglob("*.jpg"))
    assert len(paths) == 20 and [int(path.stem) for path in sorted(paths, key=lambda p: p.stem)] == list(
        range(20)
    )
    again = folder / "again"
    make_shapes(ShapesConfig(human=1, web=1, test=1, labeled=5, image_size=32), again)
    for path in sorted(Path(again / "labeled").rglob("*.jpg")):
        same = folder / "labeled/labeled" / path.relative_to(again / "labeled")
        assert path.read_bytes() == same.read_bytes(), "a row does not depend on the number of rows"
