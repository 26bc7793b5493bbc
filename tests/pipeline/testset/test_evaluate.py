"""`capfilt evaluate` against transformers with the same weights, numpy, and pycocoevalcap on its files."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from typer.testing import CliRunner

from capfilt.models.caption_text import normalize_caption
from capfilt.models.checkpoints.load import export_checkpoint, save_checkpoint
from capfilt.models.images.pixels import normalize
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.evaluation.caption_metrics import compute_caption_metrics
from capfilt.pipeline.testset import java_metrics
from tests.models.blip_oracle import hf_captioner, hf_matcher, random_pixels
from tests.models.tiny_med import TOKENIZER, build, from_file

IMAGES = 9
TEXTS = {
    0: ["A red dog.", "the small blue cat under a tree"], 1: ["two birds on the boat"],
    2: ["a car in the house"], 3: ["green bird near the tree", "a bird"], 4: ["A large house!"],
    5: ["the red car", "a red dog"], 6: ["a boat"], 7: ["small tree near two dogs, a cat"],
}  # fmt: skip
"""Image 8 has no text; images 0 and 5 share one after normalization."""


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    """METEOR and SPICE have tests of their own; here the machine's Java does not matter."""
    monkeypatch.setattr(java_metrics.shutil, "which", lambda name: None)


@pytest.fixture(scope="module")
def pixels():
    return random_pixels(IMAGES, seed=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory, pixels):
    """A COCO file whose images lie beside it, of the size of the model, without loss."""
    folder = tmp_path_factory.mktemp("coco")
    for number, image in enumerate(pixels):
        sink = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(sink, "PNG")
        (folder / f"{number}.png").write_bytes(sink.getvalue())
    write_coco(folder / "captions.json", range(IMAGES))
    return folder / "captions.json"


def write_coco(path, numbers, extra=(), texts=TEXTS):
    """Ids of the images are 100, 101, …"""
    images = [{"id": 100 + n, "file_name": f"{n}.png"} for n in numbers]
    annotations = [{"image_id": 100 + n, "caption": t} for n in numbers for t in texts.get(n, ())]
    path.write_text(json.dumps({"images": [*images, *extra], "annotations": annotations}))


def evaluate(checkpoint, data, out, *options):
    """(exit code, output, errors) of the command; its batches are smaller than the test set."""
    arguments = ["evaluate", checkpoint, "--data", data, "--out", out, "--batch-size", "4"]
    result = CliRunner().invoke(app, [*map(str, arguments), *options])
    return result.exit_code, result.stdout, result.stderr


def metrics(out):
    return json.loads((out / "metrics.json").read_text())


def recalls(final, cosine):
    """The fourteen recalls by ranks of numpy: of each query, the place of its first right item."""
    texts = [normalize_caption(text) for n in sorted(TEXTS) for text in TEXTS[n]]
    right = np.array(
        [[text in map(normalize_caption, TEXTS.get(n, ())) for text in texts] for n in range(IMAGES)]
    )
    result = {}
    for prefix, scores in (("", final), ("itc_", cosine)):
        for way, table, mask in (("tr", scores, right), ("ir", scores.T, right.T)):
            queries = np.flatnonzero(mask.any(axis=1))
            ranks = [int(mask[q][np.argsort(-table[q], kind="stable")].argmax()) for q in queries]
            result |= {f"{prefix}{way}@{n}": 100 * float(np.mean(np.array(ranks) < n)) for n in (1, 5, 10)}
        result[f"{prefix}r_mean"] = float(
            np.mean([v for k, v in result.items() if k.startswith((f"{prefix}tr", f"{prefix}ir"))])
        )
    return result


@pytest.mark.parametrize("token", ["cls", "enc"])
def test_retrieval_equals_transformers_on_all_pairs(tmp_path, data, pixels, token):
    hf = hf_matcher(TOKENIZER, seed=2)
    hf.save_pretrained(tmp_path / "hf")
    TOKENIZER.save(tmp_path / "hf")
    cosine, final = (np.zeros((IMAGES, sum(map(len, TEXTS.values())))) for _ in range(2))
    texts = [normalize_caption(text) for n in sorted(TEXTS) for text in TEXTS[n]]
    with torch.no_grad():
        for column, text in enumerate(texts):
            ids, mask = (each.expand(IMAGES, -1).clone() for each in TOKENIZER.encode([text], 35))
            given = {"pixel_values": normalize(pixels), "attention_mask": mask}
            cosine[:, column] = hf(input_ids=ids, use_itm_head=False, **given)[0][:, 0]
            if token == "enc":
                ids[:, 0] = TOKENIZER.enc_id
            final[:, column] = hf(input_ids=ids, use_itm_head=True, **given)[0][:, 1]
    code, output, _ = evaluate(tmp_path / "hf", data, tmp_path / "out", "--itm-token", token)
    assert code == 0
    found, expected = metrics(tmp_path / "out"), recalls(final + cosine, cosine)
    assert found["retrieval"] == pytest.approx(expected)
    assert 0 < expected["tr@1"] + expected["ir@1"] < 200 and expected["tr@1"] != expected["itc_tr@1"]
    assert found["model"] | {"digest": ""} == {
        "format": "hf", "parts": "filter", "digest": "", "image_size": 32, "device": "cpu",
        "precision": "float32",
    }  # fmt: skip
    assert f"{found['retrieval']['r_mean']:.1f}" in output
    assert 'note          no caption: the checkpoint is a "filter"' in output
    assert "--k 256 is more than the 9 images and the 11 texts: ITM ranks all of them" in output
    assert found["caption"] == {} and not (tmp_path / "out/captions.json").exists()


def test_captions_equal_transformers_and_figures_equal_pycocoevalcap_on_the_files(tmp_path, data, pixels):
    hf = hf_captioner(TOKENIZER, seed=3)
    hf.save_pretrained(tmp_path / "hf")
    TOKENIZER.save(tmp_path / "hf")
    ids, _ = TOKENIZER.encode(["a picture of "], 48, first="dec")  # transformers removes [SEP] itself
    with torch.no_grad():
        generated = hf.generate(
            pixel_values=normalize(pixels),
            input_ids=ids.expand(IMAGES, -1).clone(),
            num_beams=3,
            max_length=20,
            min_length=5,
        )
    prompt = len("a picture of")  # random weights can continue its last word
    expected = [TOKENIZER.decode(row)[prompt:].strip() for row in generated]
    assert len(set(expected)) > 3
    similar = {n: [*TEXTS[n], f"The {' '.join(expected[n].split()[1:])}."] for n in TEXTS}
    data = data.parent / "similar.json"
    write_coco(data, range(IMAGES), texts=similar)
    code, output, _ = evaluate(tmp_path / "hf", data, tmp_path / "out", "--task", "caption")
    assert code == 0
    written = json.loads((tmp_path / "out/captions.json").read_text())
    assert written == [{"image_id": 100 + n, "caption": text} for n, text in enumerate(expected)]
    by_image = {}
    for annotation in json.loads(data.read_text())["annotations"]:
        text = annotation["caption"].lower().translate(str.maketrans("", "", ".,!"))
        by_image.setdefault(annotation["image_id"], []).append(" ".join(text.split()))
    captions = {entry["image_id"]: [entry["caption"]] for entry in written if entry["image_id"] in by_image}
    bleu = Bleu(4).compute_score(by_image, captions, verbose=0)[0]
    expected_scores = {f"bleu@{n}": 100 * value for n, value in enumerate(bleu, start=1)}
    expected_scores["cider"] = 100 * Cider().compute_score(by_image, captions)[0]
    expected_scores["rouge_l"] = 100 * Rouge().compute_score(by_image, captions)[0]
    found = metrics(tmp_path / "out")
    assert found["caption"] == pytest.approx(expected_scores) and min(expected_scores.values()) > 10
    assert found["notes"] == [
        "captions of 1 images are not scored: these images have no text",
        "METEOR and SPICE need Java, which is not installed; the other metrics do not",
    ]
    assert f"{found['caption']['cider']:.1f}" in output and found["retrieval"] == {}


@pytest.mark.parametrize("layout", ["capfilt", "blip"])
def test_a_pretrained_model_of_any_layout_does_both_tasks(tmp_path, data, layout):
    save_checkpoint(tmp_path / "ours", from_file(), TOKENIZER, {})
    checkpoint, options = tmp_path / "ours", ["--prompt", "", "--k", "3"]
    if layout == "blip":
        export_checkpoint(tmp_path / "ours", tmp_path / "model.pth", to="blip")
        checkpoint, options = tmp_path / "model.pth", [*options, "--tokenizer", str(tmp_path / "ours")]
    code, output, errors = evaluate(checkpoint, data, tmp_path / "out", *options)
    assert (code, errors) == (0, "")
    found = metrics(tmp_path / "out")
    assert found["model"]["parts"] == "pretrain" and found["model"]["format"] == layout
    assert found["settings"]["k"] == 3 and len(found["retrieval"]) == 14 and "cider" in found["caption"]
    assert not [note for note in found["notes"] if "--k" in note]
    assert "ITC R@1" in output and "CIDEr" in output


def test_images_that_cannot_be_read_are_listed_and_the_figures_are_over_the_others(tmp_path, data):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    (data.parent / "broken.png").write_bytes((data.parent / "1.png").read_bytes()[:200])
    broken = [
        {"id": 200, "file_name": "none.png"},
        {"id": 201, "file_name": "broken.png"},
        {"id": 100, "file_name": "0.png"},
    ]
    write_coco(data.parent / "some.json", [0, 1, 2, 3], broken)
    write_coco(data.parent / "whole.json", [0, 1, 2, 3])
    options = ["--task", "retrieval", "--k", "2"]
    code, output, _ = evaluate(tmp_path / "ours", data.parent / "some.json", tmp_path / "some", *options)
    assert code == 0 and "3 of 7 records: 1 missing_file, 1 decode, 1 bad_record" in output
    assert "the figures are over the other 4 images" in output and "none.png: missing_file" in output
    evaluate(tmp_path / "ours", data.parent / "whole.json", tmp_path / "whole", *options)
    some, whole = metrics(tmp_path / "some"), metrics(tmp_path / "whole")
    assert some["retrieval"] == whole["retrieval"]
    assert some["images"] == {
        "listed": 7, "evaluated": 4, "failed": {"missing_file": 1, "decode": 1, "bad_record": 1},
    }  # fmt: skip
    assert whole["images"] == {"listed": 4, "evaluated": 4, "failed": {}}
    lines = [json.loads(line) for line in (tmp_path / "some/images.jsonl").read_text().splitlines()]
    assert [(line["image_id"], line["status"]) for line in lines[3:]] == [
        (103, "success"), (200, "missing_file"), (201, "decode"), (100, "bad_record"),
    ]  # fmt: skip
    assert lines[0] == {"image_id": 100, "image": "0.png", "texts": 2, "status": "success", "message": None}


def test_files_of_an_earlier_evaluation_in_the_folder_are_replaced(tmp_path, data):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    for task, files in (
        ("caption", ["captions.json", "images.jsonl", "metrics.json"]),
        ("retrieval", ["images.jsonl", "metrics.json"]),
    ):
        evaluate(tmp_path / "ours", data, tmp_path / "out", "--task", task, "--limit", "2")
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ("captioner", ["--task", "retrieval"], '; use --task caption, or a "pretrain" or "filter"'),
        ("filter", ["--task", "caption"], 'is a "filter" and cannot be evaluated by --task caption; use'),
        ("vqa", [], 'is a "vqa" and cannot be evaluated'),
        ("filter", ["--images", "/none"], "--images /none: none of 9 images can be read (first: missing_"),
        ("filter", ["--repetition-penalty", "0"], "--repetition-penalty 0: it must be above 0"),
        ("filter", ["--tokenizer", "/nowhere"], "--tokenizer: nothing at /nowhere"),
        ("captioner", ["--prompt", "a b c d"], "--prompt 'a b c d': its 5 tokens and 16 new ones are more"),
        ("filter", ["--split", "val"], "has no splits"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_nothing_is_written(tmp_path, data, parts, options, message):
    save_checkpoint(tmp_path / "ours", build(parts=parts), TOKENIZER, {})
    code, _, errors = evaluate(tmp_path / "ours", data, tmp_path / "out", *options)
    assert code == 2 and message in errors and errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_captions_of_nocaps_are_also_scored_by_domain(tmp_path, data):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    path, domains = data.parent / "nocaps.json", ["near-domain", "in-domain", "near-domain"]
    texts = ["a red circle", "a blue square below it", "two green stars"]
    document = {
        "images": [{"id": n, "file_name": f"{n}.png", "domain": each} for n, each in enumerate(domains)],
        "annotations": [{"id": n, "image_id": n, "caption": text} for n, text in enumerate(texts)],
    }
    path.write_text(json.dumps(document))
    code, output, _ = evaluate(tmp_path / "ours", path, tmp_path / "out", "--task", "caption")
    found = metrics(tmp_path / "out")
    captions = {e["image_id"]: e["caption"] for e in json.loads((tmp_path / "out/captions.json").read_text())}
    near = compute_caption_metrics({n: captions[n] for n in (0, 2)}, {n: [texts[n]] for n in (0, 2)})
    assert code == 0 and list(found["caption_by_domain"]) == ["in-domain", "near-domain"]
    assert found["caption_by_domain"]["near-domain"].items() >= near.items()
    assert [line.split()[0] for line in output.splitlines() if "domain" in line or " all " in line] == [
        "in-domain", "near-domain", "all",
    ]  # fmt: skip


def test_images_without_texts_are_captioned_and_not_scored(tmp_path, data):
    save_checkpoint(tmp_path / "ours", build(), TOKENIZER, {})
    path = data.parent / "nocaps.json"
    path.write_text(json.dumps({"images": [{"id": n, "file_name": f"{n}.png"} for n in range(3)]}))
    code, _, _ = evaluate(tmp_path / "ours", path, tmp_path / "out")
    found = metrics(tmp_path / "out")
    assert code == 0 and found["caption"] == found["retrieval"] == {}
    assert found["notes"] == [
        "no retrieval: the images have no texts", "captions are not scored: these images have no text",
    ]  # fmt: skip
    assert [entry["image_id"] for entry in json.loads((tmp_path / "out/captions.json").read_text())] == [
        0,
        1,
        2,
    ]
    code, _, errors = evaluate(tmp_path / "ours", path, tmp_path / "none", "--task", "retrieval")
    assert code == 2 and "it has no texts to retrieve; use --task caption" in errors
