"""Evaluation of one model in this process, also when memory runs out."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.config import MedConfig, TextConfig, VisionConfig
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.pipeline.config.sections import EvaluateSection
from capfilt.pipeline.evaluation import held_out as module
from capfilt.pipeline.evaluation.pretrained import EvaluationTask, evaluate_model
from capfilt.stages.bootstrap.caption import CaptionConfig
from tests.clean_pairs import clean_pairs

IMAGES = 14


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """The evaluation of a model with random weights, large enough to give different captions and ranks."""
    store, shards = clean_pairs(tmp_path_factory.mktemp("evaluation"), "test", count=IMAGES)
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(["a red circle and a blue square next to a green star"], 120)
    text = TextConfig(
        vocab_size=tokenizer.vocab_size, width=16, depth=1, heads=2, ffn=32, max_positions=64, dropout=0.0
    )
    vision = VisionConfig(image_size=32, patch_size=16, width=16, depth=1, heads=2)
    med = MED(MedConfig(vision=vision, text=text, embed_dim=8))
    with torch.no_grad():
        for parameter in med.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
    save_checkpoint(store.path("models/pretrain.0"), med, tokenizer, {})
    caption = CaptionConfig(
        prompt="",
        sampling=SamplingConfig(strategy="greedy", max_new_tokens=6),
        batch_size=8,
        precision="float32",
    )
    config = EvaluateSection(k=8, caption=caption)
    return EvaluationTask(model="pretrain.0", store=store, shards=shards, config=config, seed=0)


def test_several_test_sources_are_also_evaluated_apart(task, tmp_path):
    """Captions against those of a run with this source only; recall is tested in
    tests/models/tasks/test_retrieval.py."""
    other, other_shards = clean_pairs(tmp_path, "human", count=9)
    for folder in ("models", "corpus/test", "images/test"):
        shutil.copytree(f"{task.store.url}/{folder}", f"{other.url}/{folder}")
    both = evaluate_model(replace(task, store=other, shards=(*task.shards, *other_shards)))
    assert both["images"] == IMAGES + 9
    alone = {
        "test": evaluate_model(task),
        "human": evaluate_model(replace(task, store=other, shards=other_shards)),
    }
    assert "by_source" not in alone["test"]
    for source, of_source in both["by_source"].items():
        assert of_source["images"] == alone[source]["images"]
        assert of_source["caption"] == alone[source]["caption"]
        assert set(of_source["retrieval"]) == set(both["retrieval"])
        # The gallery of both sources is larger, so that nothing is found more often.
        for name in ("itc_tr@1", "itc_tr@5", "itc_ir@1", "itc_ir@5"):
            assert of_source["retrieval"][name] <= alone[source]["retrieval"][name]
    for name, value in both["retrieval"].items():
        parts = [r["images"] * r["retrieval"][name] for r in both["by_source"].values()]
        assert value == pytest.approx(sum(parts) / both["images"]), "one text per image"


def limit_memory(monkeypatch, most):
    """Raise an out-of-memory error for more than `most` images, texts or pairs at once.

    Returns:
        [(method, number of images, texts or pairs)] of all calls.
    """
    calls = []
    for name in ("encode_image", "text_feature", "match"):
        original = getattr(MED, name)

        def limited(med, first, *args, _original=original, _name=name, **options):
            calls.append((_name, len(first)))
            if len(first) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return _original(med, first, *args, **options)

        monkeypatch.setattr(MED, name, limited)
    return calls


def test_out_of_memory_does_not_change_the_result_and_is_reported(task, monkeypatch):
    expected, notices = evaluate_model(task), []
    assert expected["images"] == IMAGES and 0 < expected["retrieval"]["tr@5"] < 100
    calls = limit_memory(monkeypatch, most=4)
    status = SimpleNamespace(add_notice=notices.append, post=lambda **values: None)
    assert evaluate_model(replace(task, status=status)) == expected
    assert {name for name, count in calls if count == 8} == {"encode_image", "text_feature", "match"}
    captioner_notice = "pretrain.0: out of memory with a batch of 8 images; continuing with 4"
    assert notices == [
        captioner_notice,
        "pretrain.0: out of memory with a batch of 8 texts; continuing with 4",
        "pretrain.0: out of memory with a batch of 8 pairs; continuing with 4",
        captioner_notice,  # the board shows equal lines once
    ]


def test_batch_size_of_the_config_applies_to_every_part(task, monkeypatch):
    calls = limit_memory(monkeypatch, most=99)
    expected = evaluate_model(task)
    assert {name: max(n for other, n in calls if other == name) for name, _ in calls} == {
        "encode_image": 8,
        "text_feature": 8,
        "match": 8,
    }
    calls.clear()
    smaller = replace(task.config.caption, batch_size=3)
    assert evaluate_model(replace(task, config=EvaluateSection(k=8, caption=smaller))) == expected
    assert max(count for _, count in calls) == 3


@pytest.mark.parametrize(("limit", "images"), [(5, 5), (IMAGES, IMAGES), (IMAGES + 1, IMAGES)])
def test_limit_takes_the_first_images(task, limit, images):
    config = task.config.model_copy(update={"limit": limit})
    assert evaluate_model(replace(task, config=config))["images"] == images


def test_out_of_memory_with_a_single_image_is_an_error(task, monkeypatch):
    limit_memory(monkeypatch, most=0)
    with pytest.raises(OutOfMemory, match=r"batch size of 1 \(images\)"):
        evaluate_model(task)


def test_notices_are_logged_without_a_board(task, monkeypatch, caplog):
    limit_memory(monkeypatch, most=4)
    evaluate_model(task)
    assert "pretrain.0: out of memory with a batch of 8 pairs; continuing with 4" in caplog.messages


def test_images_done_are_posted_in_every_step(task, monkeypatch):
    """Batches of 8 of the 14 images; the pairs of 1 image and of several are ranked together."""
    monkeypatch.setattr(module, "POST_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(module, "CAPTIONED_BATCHES", 1)
    posted = []
    status = SimpleNamespace(add_notice=print, post=lambda **values: posted.append(values))
    assert evaluate_model(replace(task, status=status)) == evaluate_model(task)
    assert {name for values in posted for name in values} == {"pretrain.0"}
    lines = [values["pretrain.0"] for values in posted]
    assert lines[:3] == ["reading model and images", "encoding 8 of 14 images", "encoding 14 of 14 images"]
    assert lines[-2:] == ["captioning 8 of 14 images", "captioning 14 of 14 images"]
    ranked = [line for line in lines if line.startswith("ranking")]
    assert lines[3:-2] == ranked and ranked[-1] == "ranking 14 of 14 images"
    counts = [int(line.split()[1]) for line in ranked]
    assert counts == sorted(set(counts)) and len(counts) > 1


def test_between_the_ends_of_steps_a_second_passes(task, monkeypatch):
    posted, seconds = [], iter((0.0, 0.9, 1.0, 1.9, 2.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: next(seconds))
    status = SimpleNamespace(post=lambda **values: posted.append(values["pretrain.0"].split()[1]))
    progress = module.Progress(replace(task, status=status).post, 1_000)
    for done in (100, 200, 300, 400, 1_000):
        progress("ranking", done)
    assert posted == ["100", "300", "1,000"]
