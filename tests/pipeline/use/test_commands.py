"""`capfilt caption`, `match`, `answer` and `rank`, against the models called directly."""

import io
import json
import re
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from typer.testing import CliRunner

from capfilt.models.caption_text import normalize_caption
from capfilt.models.checkpoints.load import export_checkpoint, save_checkpoint
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.tasks.answerer import Answerer
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.matcher import Matcher
from capfilt.models.tasks.options import CaptionerOptions
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.use import models, pictures
from tests.models.blip_oracle import random_pixels
from tests.models.tiny_med import TEXT, TOKENIZER, VISION, build

NAMES = ["0.png", "1.PNG", "more/2.png", "more/deep/3.png"]
"""In the order of a folder."""
TEXTS = ["A red dog.", "two birds on the boat", "the small blue cat"]
BEAMS = SamplingConfig(strategy="beam", num_beams=3, max_new_tokens=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures in `photos/`, checkpoints of each parts beside it."""
    folder = tmp_path_factory.mktemp("use")
    for name, pixels in zip(NAMES, random_pixels(len(NAMES), seed=4), strict=True):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path, "PNG")
    for name in ("notes.txt", ".hidden.png", ".trash/old.png"):
        path = folder / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"not a picture")
    for parts in ("pretrain", "captioner", "filter", "vqa"):
        text = {"text": TEXT} if parts != "vqa" else {"vision": VISION}
        save_checkpoint(folder / parts, build(parts=parts, **text), TOKENIZER, {})
    return folder


@pytest.fixture(autouse=True)
def no_default(monkeypatch):
    monkeypatch.delenv(models.CHECKPOINT_VARIABLE, raising=False)


def capfilt(*words, stdin=None):
    """(exit code, output, errors) of a command."""
    result = CliRunner().invoke(app, list(map(str, words)), input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    # Of what takes seconds there are lines with the time.
    errors = [line for line in result.stderr.splitlines(keepends=True) if not re.match(r"\d{4}-\d\d-", line)]
    return result.exit_code, result.stdout, "".join(errors)


def lines(*words, stdin=None):
    code, output, errors = capfilt(*words, stdin=stdin)
    return code, [json.loads(line) for line in output.splitlines()], errors


def images_of(folder):
    return [(folder / "photos" / name).read_bytes() for name in NAMES]


def test_captions_of_a_folder_are_json_lines_in_the_order_of_names(folder):
    options = CaptionerOptions(sampling=BEAMS)
    expected = Captioner.from_checkpoint(folder / "captioner", options).caption(images_of(folder), NAMES)
    code, found, errors = lines(
        "caption", folder / "photos", "--checkpoint", folder / "captioner", "--batch-size", 3
    )
    assert code == 0 and errors == ""
    assert found == [
        {
            "image": str(folder / "photos" / name), "status": "success", "caption": each[0].text,
            "logprob": pytest.approx(each[0].logprob, abs=1e-3),
        }
        for name, each in zip(NAMES, expected, strict=True)
    ]  # fmt: skip


def test_several_captions_of_a_picture_are_several_lines(folder):
    picture, model = folder / "photos/0.png", folder / "pretrain"
    for words in (["-n", 4], ["-n", 2, "--sampling", "nucleus", "--seed", 5]):
        code, found, _ = lines("caption", picture, "--checkpoint", model, *words)
        assert code == 0 and [each["image"] for each in found] == [str(picture)] * words[1]
        again = lines("caption", picture, "--checkpoint", model, *words)[1]
        assert found == again and len({each["caption"] for each in found}) > 1


def test_broken_pictures_are_lines_with_a_reason_and_the_exit_code_is_1(folder, tmp_path):
    (tmp_path / "cut.png").write_bytes(images_of(folder)[0][:300])
    (tmp_path / "empty.jpg").touch()
    listed = [tmp_path / "cut.png", folder / "photos/0.png", tmp_path / "empty.jpg", tmp_path / "nothing.jpg"]
    listed += [folder / "photos", "http://127.0.0.1:9/x.jpg"]
    given = "".join(f"{path}\n" for path in listed) + "\n"
    code, found, errors = lines("caption", "-", "--checkpoint", folder / "captioner", stdin=given)
    assert code == 1 and "error 5 of 6 pictures cannot be used" in errors
    assert [each["image"] for each in found] == [str(path) for path in listed]
    assert [each["status"] for each in found] == [
        "decode", "success", "empty_body", "missing_file", "missing_file", "private_address",
    ]  # fmt: skip
    assert found[3]["message"] == "No such file or directory" and found[4]["message"] == "this is a folder"
    assert all(("caption" in each) == (each["status"] == "success") for each in found)


def test_patterns_and_files_of_any_name_are_read(folder, tmp_path):
    shutil.copy(folder / "photos/0.png", tmp_path / "a[1]")
    code, found, _ = lines(
        "caption", f"{folder}/photos/**/*.png", tmp_path / "a[1]", "--checkpoint", folder / "captioner"
    )
    assert code == 0
    names = [f"{folder}/photos/{name}" for name in ("0.png", "more/2.png", "more/deep/3.png")]
    assert [each["image"] for each in found] == [*names, str(tmp_path / "a[1]")]


def test_matching_scores_every_text_with_every_picture(folder, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[1:]) + "\n\n")
    expected = Matcher.from_checkpoint(folder / "filter").match(
        images_of(folder), [list(map(normalize_caption, TEXTS))] * len(NAMES)
    )
    code, found, _ = lines(
        "match", folder / "photos", "--checkpoint", folder / "filter", "--text", TEXTS[0],
        "--texts", tmp_path / "texts.txt",
    )  # fmt: skip
    assert code == 0 and [each["text"] for each in found] == TEXTS * len(NAMES)
    flat = [score for scores in expected for score in scores]
    assert [each["itm_prob"] for each in found] == pytest.approx([s.itm_prob for s in flat], abs=1e-5)
    assert [each["itc_sim"] for each in found] == pytest.approx([s.itc_sim for s in flat], abs=1e-5)


def pair_scores(folder):
    """{(name, text): (ITC similarity, ITM probability)}."""
    scores = Matcher.from_checkpoint(folder / "filter").match(
        images_of(folder), [list(map(normalize_caption, TEXTS))] * len(NAMES)
    )
    return {
        (name, text): (score.itc_sim, score.itm_prob)
        for name, of_image in zip(NAMES, scores, strict=True)
        for text, score in zip(TEXTS, of_image, strict=True)
    }


@pytest.mark.parametrize("k", [0, 2])
def test_rankings_in_both_directions_are_those_of_all_pairs(folder, k):
    scores, words = pair_scores(folder), [word for text in TEXTS for word in ("--text", text)]

    def ranked(items):
        by_itc = sorted(items, key=lambda item: -scores[item][0])
        return sorted(by_itc[:k], key=lambda item: -scores[item][1]) + by_itc[k:]

    for what, top in (("texts", 2), ("images", 3)):
        found = lines(
            "rank", folder / "photos", "--checkpoint", folder / "filter", *words, "--what", what,
            "--top", top, "-k", k, "--batch-size", 3,
        )[1]  # fmt: skip
        groups = [[(n, t) for t in TEXTS] for n in NAMES] if what == "texts" else [
            [(n, t) for n in NAMES] for t in TEXTS
        ]  # fmt: skip
        expected = [item for group in groups for item in ranked(group)[:top]]
        assert [(each["image"].partition("/photos/")[2], each["text"]) for each in found] == expected
        assert [each["rank"] for each in found] == list(range(1, top + 1)) * len(groups)
        assert [each["itm_prob"] is not None for each in found] == [i < k for i in range(top)] * len(groups)


def test_one_text_ranks_the_pictures(folder):
    code, found, _ = lines(
        "rank", folder / "photos", "--checkpoint", folder / "filter", "--text", TEXTS[0], "--top", 2
    )
    assert code == 0 and [each["text"] for each in found] == [TEXTS[0]] * 2


def test_answers_are_free_or_chosen(folder):
    asked, offered = ["two birds", "is it red"], ["dog", "red car", "boat"]
    answerer = Answerer.from_checkpoint(folder / "vqa")
    images = [image for image in images_of(folder) for _ in asked]
    questions = asked * len(NAMES)
    words = [word for text in asked for word in ("-q", text)]
    given = ["answer", folder / "photos", "--checkpoint", folder / "vqa", *words, "--batch-size", 3]
    _, free, _ = lines(*given)
    assert [each["answer"] for each in free] == [each.text for each in answerer.answer(images, questions)]
    assert [each["question"] for each in free] == questions
    _, chosen, _ = lines(*given, *(word for text in offered for word in ("--choice", text)))
    ranked = answerer.rank(images, questions, offered)
    assert [each["answer"] for each in chosen] == [each.text for each in ranked]


@pytest.mark.parametrize("layout", ["pth", "hf"])
def test_other_layouts_of_checkpoints_serve_too(folder, tmp_path, layout):
    target = tmp_path / ("a.pth" if layout == "pth" else "hf")
    export_checkpoint(folder / "captioner", target, to="blip" if layout == "pth" else "hf")
    words = ["--tokenizer", folder / "captioner"] if layout == "pth" else []
    picture = folder / "photos/0.png"
    found = lines("caption", picture, "--checkpoint", target, *words)[1]
    assert (
        found[0]["caption"]
        == lines("caption", picture, "--checkpoint", folder / "captioner")[1][0]["caption"]
    )


def make_run(folder, run, names):
    """A run directory with finished models, {node: parts}, and the prompt "a" of their trainings."""
    (run / "nodes").mkdir(parents=True)
    (run / "config.yaml").write_text("run: {}\n")
    for node, parts in names.items():
        shutil.copytree(folder / parts, run / "models" / node)
        record = {"inputs": {"captioner": {"finetune": {"objective": {"prompt": "a"}}}}}
        (run / f"nodes/{node}.json").write_text(json.dumps(record))


def test_a_run_directory_gives_its_newest_suitable_model_and_its_prompt(folder, tmp_path):
    run = tmp_path / "run"
    make_run(folder, run, {
        "pretrain.0": "pretrain", "captioner.1": "captioner", "captioner.2": "captioner",
        "filter.2": "filter", "pretrain.2": "pretrain", "human_only": "pretrain", "captioner.10": "captioner",
    })  # fmt: skip
    (run / "models/captioner.10/provenance.json").unlink()  # at work
    (run / "models/tokenizer").mkdir()
    chosen = {
        work: models.choose_model(models.ModelRequest(checkpoint=str(run)), work)
        for work in ("caption", "match")
    }
    assert chosen["caption"] == models.ChosenModel(str(run / "models/captioner.2"), "a", True)
    assert chosen["match"].address == str(run / "models/filter.2")
    code, _, errors = lines("caption", folder / "photos/0.png", "--checkpoint", run)
    assert code == 0 and errors == f"note using {run}/models/captioner.2\n"
    named = models.choose_model(models.ModelRequest(checkpoint=f"{run}/models/pretrain.0/"), "caption")
    assert named.prompt == "a"
    for node in ("captioner.1", "captioner.2"):
        shutil.rmtree(run / "models" / node)
    assert models.choose_model(models.ModelRequest(checkpoint=str(run)), "caption").address.endswith(
        "pretrain.2"
    )


MISTAKES = [
    (["caption", "{p}"], "--checkpoint: missing; give a checkpoint"),
    (["caption", "{p}", "--checkpoint", "{f}/none"], "--checkpoint: nothing at"),
    (["caption", "{f}/no*.gif", "--checkpoint", "{f}/filter"], "no picture matches this pattern"),
    (["caption", "{f}/nix.jpg", "--checkpoint", "{f}/filter"], "there is no such file or folder"),
    (["caption", "{f}/filter", "--checkpoint", "{f}/filter"], "no picture in it (names that end with .jpg"),
    (["caption", "-", "-", "--checkpoint", "{f}/captioner"], "given twice"),
    (["caption", "{p}", "--checkpoint", "{f}/filter"], 'this is a "filter" and does not write captions'),
    (["match", "{p}", "--text", "a", "--checkpoint", "{f}/captioner"], 'give a "filter" or a "pretrain"'),
    (["answer", "{p}", "-q", "a", "--checkpoint", "{f}/pretrain"], "was not finetuned to answer questions"),
    (["answer", "{p}", "--checkpoint", "{f}/vqa"], "--question: missing; give a question, or a file"),
    (["rank", "{p}", "--texts", "{f}/none", "--checkpoint", "{f}/filter"], "cannot be read (No such file"),
    (["caption", "{p}", "-n", "2", "--sampling", "greedy", "--checkpoint", "{f}/captioner"], "--n 2: greedy"),
    (["caption", "{p}", "--device", "tpu9", "--checkpoint", "{f}/filter"], "--device tpu9: cannot be used"),
    (["caption", "https://me:secret@a.example/b.jpg", "--checkpoint", "{f}/captioner"], "IMAGE"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_mistakes_are_one_line(folder, words, message):
    words = [word.format(p=folder / "photos/0.png", f=folder) for word in words]
    code, output, errors = capfilt(*words)
    assert code == 2 and output == "" and message in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1 and "secret" not in errors


def test_a_run_without_a_suitable_model_says_what_it_has(folder, tmp_path):
    make_run(folder, tmp_path / "run", {"filter.1": "filter"})
    code, _, errors = capfilt("answer", folder / "photos", "-q", "a", "--checkpoint", tmp_path / "run")
    assert code == 2 and "no model of this run was finetuned to answer questions" in errors
    assert "it has filter.1 (filter)" in errors and errors.count("\n") == 1


def test_lines_for_people_group_what_belongs_together(folder, tmp_path):
    picture, model = folder / "photos/0.png", ["--checkpoint", folder / "filter", "--plain"]
    _, one, _ = capfilt("match", picture, "--text", TEXTS[0], *model)
    assert one.startswith(f"{picture}: ") and one.endswith(f"  {TEXTS[0]}\n") and "% matched, cosine" in one
    _, many, _ = capfilt("match", picture, "--text", "a", "--text", "[red] dog", *model)
    heading, first, second = many.splitlines()
    assert heading == str(picture) and first.endswith("  a") and second.endswith("  [red] dog")
    _, ranked, _ = capfilt("rank", folder / "photos", "--text", "a", "-k", 1, *model)
    assert ranked.splitlines()[0] == "a" and ranked.splitlines()[1].startswith("    1. ")
    (tmp_path / "bad\x1b.png").write_bytes(b"bad")
    code, broken, _ = capfilt("match", tmp_path / "bad\x1b.png", "--text", "a", *model)
    assert code == 1 and broken.startswith(f"{tmp_path}/bad\\x1b.png: not_image, ")


def test_pictures_are_read_ahead_by_one_chunk_only(monkeypatch):
    read = []
    monkeypatch.setattr(
        pictures, "read_picture", lambda path: read.append(path) or pictures.Picture(path, b"")
    )
    chunks = pictures.read_pictures(map(str, range(100)), 10)
    assert [each.path for each in next(chunks)] == [str(i) for i in range(10)]
    next(chunks)
    assert len(read) <= 30
    chunks.close()


def test_a_reader_that_has_gone_ends_the_output_quietly():
    code = (
        "from capfilt.pipeline.use.output import Lines, flush\n"
        "lines = Lines(None, str)\n"
        "while True: lines.show('a', [{'caption': 'b' * 1000}]); flush()"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert io.TextIOWrapper(child.stdout).readline().startswith('{"image": "a"')
        child.stdout.close()
        assert (child.stderr.read(), child.wait()) == (b"", 141)
