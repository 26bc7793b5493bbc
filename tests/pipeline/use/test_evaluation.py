"""`capfilt evaluate --task vqa|nlvr2|classification`, against the models called sample by sample."""

import json
from statistics import fmean

import pytest
import torch
from typer.testing import CliRunner

from capfilt.models.checkpoints.load import load_checkpoint, save_checkpoint
from capfilt.models.tasks.answerer import Answerer
from capfilt.models.tasks.pair_judge import PairJudge
from capfilt.models.tasks.ranker import Ranker, fill_templates
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from capfilt.pipeline.tasks.vqa_score import score_answer
from tests.pipeline.tasks.task_run import make_data

ANSWERS = ["yes", "no", "red", "blue", "circle", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    make_data(folder)
    make_shapes(ShapesConfig(human=1, web=1, test=1, labeled=9, image_size=32), folder / "labeled")
    for parts in ("vqa", "nlvr"):
        torch.manual_seed(1)
        med, tokenizer, _ = load_checkpoint(folder / "start", parts)
        save_checkpoint(folder / parts, med, tokenizer, {})
    (folder / "answers.json").write_text(json.dumps(ANSWERS))
    return folder


def evaluate(*words):
    result = CliRunner().invoke(app, ["evaluate", *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def vqa_options(folder):
    vqa = folder / "shapes/vqa"
    return [
        "--task", "vqa", "--data", vqa / "test_questions.json", "--annotations",
        vqa / "test_annotations.json", "--images", vqa / "test", "--image-name", "{image_id:06d}.jpg",
        "--answers", folder / "answers.json",
    ]  # fmt: skip


def test_vqa_is_scored_over_all_questions(folder, tmp_path):
    code, output, _ = evaluate(folder / "vqa", *vqa_options(folder), "--out", tmp_path, "--batch-size", 5)
    assert code == 0
    questions = json.loads((folder / "shapes/vqa/test_questions.json").read_text())["questions"]
    listed = json.loads((folder / "shapes/vqa/test_annotations.json").read_text())["annotations"]
    images = [(folder / f"shapes/vqa/test/{each['image_id']:06d}.jpg").read_bytes() for each in questions]
    texts = [each["question"] for each in questions]
    answerer = Answerer.from_checkpoint(folder / "vqa")
    given = [[each["answer"] for each in annotation["answers"]] for annotation in listed]
    found = json.loads((tmp_path / "metrics.json").read_text())
    for name, answers in (
        ("vqa_score", answerer.rank(images, texts, ANSWERS)), ("generated", answerer.answer(images, texts)),
    ):  # fmt: skip
        scores = [score_answer(answer.text, of_all) for answer, of_all in zip(answers, given, strict=True)]
        assert found["scores"][name] == pytest.approx(100 * fmean(scores))
    assert found["samples"] == {"success": 18} and 0 < found["scores"]["chance"] < 100
    written = json.loads((tmp_path / "answers.json").read_text())
    assert [each["question_id"] for each in written] == [each["question_id"] for each in questions]
    assert f"chance        {found['scores']['chance']:.1f}" in output


def test_nlvr2_is_scored_over_all_statements(folder, tmp_path):
    path = folder / "shapes/nlvr2/test.jsonl"
    options = ["--task", "nlvr2", "--data", path, "--images", folder / "shapes/nlvr2/images"]
    assert evaluate(folder / "nlvr", *options, "--out", tmp_path)[0] == 0
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    stems = [folder / "shapes/nlvr2/images" / each["identifier"].rpartition("-")[0] for each in entries]
    pairs = [tuple(stem.with_name(f"{stem.name}-img{i}.png").read_bytes() for i in (0, 1)) for stem in stems]
    probabilities = PairJudge.from_checkpoint(folder / "nlvr").judge(pairs, [e["sentence"] for e in entries])
    right = [(p >= 0.5) == (e["label"] == "True") for p, e in zip(probabilities, entries, strict=True)]
    scores = json.loads((tmp_path / "metrics.json").read_text())["scores"]
    assert scores["accuracy"] == pytest.approx(100 * fmean(right))


def test_classes_are_named_and_a_broken_image_is_reported(folder, tmp_path):
    place = folder / "labeled/labeled"
    broken = next(place.rglob("*.jpg")).with_name("broken.jpg")
    broken.write_bytes(b"no image")
    labels = sorted(path.name for path in place.iterdir())
    names = [" ".join(reversed(label.split())) for label in labels]  # all different, so that none tie
    (tmp_path / "classes.json").write_text(json.dumps(dict(zip(labels, names, strict=True))))
    code, output, _ = evaluate(
        folder / "start", "--task", "classification", "--data", place, "--out", tmp_path / "out",
        "--template", "a {}", "--classes", tmp_path / "classes.json",
    )  # fmt: skip
    broken.unlink()
    assert code == 0 and "1 not_image: the figures are over the other samples" in output
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert found["samples"] == {"not_image": 1, "success": 9} and {"top1", "top5", "chance"} <= set(
        found["scores"]
    )
    lines = [json.loads(line) for line in (tmp_path / "out/images.jsonl").read_text().splitlines()]
    assert [each["status"] for each in lines].count("success") == 9
    ranker = Ranker.from_checkpoint(folder / "start")
    candidates = ranker.encode(fill_templates(names, ["a {}"]))
    for line in (tmp_path / "out/predictions.jsonl").read_text().splitlines():
        row = json.loads(line)
        (ranked,) = ranker.rank([(place / row["id"]).read_bytes()], candidates, top=5)
        assert row["ranked"] == [labels[each.index] for each in ranked]


@pytest.mark.parametrize(
    ("checkpoint", "changes", "message"),
    [
        ("start", {}, 'start is a "pretrain" and cannot be evaluated by --task vqa; give a "vqa"'),
        ("vqa", {"--answers": None}, "--answers: missing; give a JSON list"),
        ("vqa", {"--data": "none.json"}, "--data"),
        ("vqa", {"--annotations": "{f}/answers.json"}, "--annotations: "),
        ("vqa", {"--images": "/nowhere"}, "--images /nowhere: no image can be read (first: "),
        ("vqa", {"--image-name": "{{number}}.jpg"}, "--image-name: image_name '{number}.jpg' is no pattern"),
        ("vqa", {"--template": "a {{}}"}, "--template: only for --task classification"),
        ("vqa", {"--split": "val"}, "--split: only for --task retrieval and caption"),
        ("vqa", {"--task": None}, "--annotations: only for --task vqa or classification"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, checkpoint, changes, message):
    options = dict(zip(*[iter(map(str, vqa_options(folder)))] * 2, strict=True)) | changes
    words = [
        word.format(f=folder) if name in changes else word
        for name, value in options.items() if value is not None for word in (name, value)
    ]  # fmt: skip
    code, _, errors = evaluate(folder / checkpoint, *words, "--out", tmp_path / "out")
    assert code == 2 and message in errors and errors.count("error: ") == 1 and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "classification", "--template", "a dog"], "--template: ['a dog']; give texts with {}"),
        (["--task", "retrieval", "--k", "0"], "--k 0: at least one candidate is ranked"),
        (["--classes", "a.json"], "--classes: only for --task vqa or classification"),
    ],
)
def test_options_that_do_not_fit_are_one_line(folder, tmp_path, words, message):
    code, _, errors = evaluate(
        folder / "start", "--data", folder / "labeled/labeled", *words, "--out", tmp_path
    )
    assert code == 2 and message in errors and errors.count("\n") == 1
