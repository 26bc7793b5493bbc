"""The evaluation of one model, in this process: it needs less memory when it must, and gives the same."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.config import MedConfig, SamplingConfig, TextConfig, VisionConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.pipeline.config.sections import EvaluateSection
from capfilt.pipeline.evaluation.pretrained import EvaluationTask as Evaluation
from capfilt.pipeline.evaluation.pretrained import evaluate
from capfilt.stages.bootstrap.caption import CaptionConfig
from tests.clean_pairs import clean_pairs

IMAGES = 14


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    """The evaluation of a model that says and finds various things."""
    run, shards = clean_pairs(tmp_path_factory.mktemp("evaluating"), "test", count=IMAGES)
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
    save_checkpoint(run.path("models/pretrain.0"), med, tokenizer, {})
    caption = CaptionConfig(
        prompt="",
        sampling=SamplingConfig(strategy="greedy", max_new_tokens=6),
        batch_size=8,
        precision="float32",
    )
    return Evaluation("pretrain.0", run, shards, EvaluateSection(k=8, caption=caption), seed=0)


def short_of_memory(monkeypatch, most):
    """Of any part of any model more than `most` images, texts or pairs at once find no room; returns what was tried."""
    tried = []
    for place in ("encode_image", "text_feature", "match"):
        whole = getattr(MED, place)

        def limited(med, first, *args, _whole=whole, _place=place, **options):
            tried.append((_place, len(first)))
            if len(first) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return _whole(med, first, *args, **options)

        monkeypatch.setattr(MED, place, limited)
    return tried


def test_out_of_memory_changes_nothing_and_is_told(evaluation, monkeypatch):
    expected, told = evaluate(evaluation), []
    assert expected["images"] == IMAGES and 0 < expected["retrieval"]["tr@5"] < 100
    tried = short_of_memory(monkeypatch, most=4)
    assert evaluate(replace(evaluation, reports=SimpleNamespace(note=told.append))) == expected
    assert {place for place, count in tried if count == 8} == {"encode_image", "text_feature", "match"}
    of_captioner = "pretrain.0: out of memory with 8 images at once, going on with 4"
    assert told == [
        of_captioner,
        "pretrain.0: out of memory with 8 texts at once, going on with 4",
        "pretrain.0: out of memory with 8 pairs at once, going on with 4",
        of_captioner,  # the board keeps it once
    ]


def test_the_batch_size_of_the_config_is_that_of_every_part(evaluation, monkeypatch):
    tried = short_of_memory(monkeypatch, most=99)
    expected = evaluate(evaluation)
    assert {place: max(n for p, n in tried if p == place) for place, _ in tried} == {
        "encode_image": 8,
        "text_feature": 8,
        "match": 8,
    }
    tried.clear()
    smaller = replace(evaluation.config.caption, batch_size=3)
    assert evaluate(replace(evaluation, config=EvaluateSection(k=8, caption=smaller))) == expected
    assert max(count for _, count in tried) == 3


def test_out_of_memory_with_one_at_a_time_is_an_error(evaluation, monkeypatch):
    short_of_memory(monkeypatch, most=0)
    with pytest.raises(OutOfMemory, match="images one at a time"):
        evaluate(evaluation)


def test_without_a_board_it_is_logged(evaluation, monkeypatch, caplog):
    short_of_memory(monkeypatch, most=4)
    evaluate(evaluation)
    assert "pretrain.0: out of memory with 8 pairs at once, going on with 4" in caplog.messages
