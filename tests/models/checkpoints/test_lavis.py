"""Checkpoints of LAVIS, as its runner writes them (LAVIS 506965b, lavis/runners/runner_base.py)."""

import pytest
import torch

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.load import load_checkpoint
from tests.models.tiny_med import TOKENIZER, assert_same, from_file


@pytest.fixture
def folder(tmp_path):
    """A folder with the tokenizer that a .pth needs."""
    TOKENIZER.save(tmp_path)
    return tmp_path


def lavis_file(path, med, *, without=(), buffers=(), **extra):
    """Write what the runner of LAVIS writes: trained tensors (no momentum copies), buffers, and its own
    state."""
    size = med.config.text.max_positions
    text = [
        name
        for name in ("text_encoder", "text_decoder.bert")
        if f"{name}.embeddings.LayerNorm.bias" in med.state_dict()
    ]
    state = {name: tensor for name, tensor in med.state_dict().items() if not name.startswith(tuple(without))}
    state |= {f"{name}.embeddings.position_ids": torch.arange(size)[None] for name in (*text, *buffers)}
    if buffers:
        state |= {f"{name}_queue": torch.randn(8, 6) for name in ("image", "text")}
        state |= {"idx_queue": torch.full((1, 6), -100), "queue_ptr": torch.zeros(1, dtype=torch.long)}
    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    content = {
        "model": state | extra,
        "optimizer": optimizer.state_dict(),
        "config": {"model": {"arch": "blip_caption", "vit_type": "base"}, "run": {"init_lr": 1e-5}},
        "scaler": {"scale": 65536.0, "growth_tracker": 3},
        "epoch": 4,
    }
    torch.save(content, path)


MOMENTUM_BUFFERS = ("text_encoder_m",)


@pytest.mark.parametrize(
    ("arch", "parts", "buffers"),
    [
        ("blip_pretrain", "pretrain", MOMENTUM_BUFFERS),
        ("blip_retrieval", "filter", MOMENTUM_BUFFERS),
        ("blip_caption", "captioner", ()),
        ("blip_vqa", "vqa", ()),
        ("blip_nlvr", "nlvr", ()),
    ],
)
def test_lavis_checkpoints_load(folder, arch, parts, buffers):
    med = from_file(parts=parts)
    lavis_file(folder / f"{arch}.pth", med, buffers=buffers)
    again, _, info = load_checkpoint(folder / f"{arch}.pth", parts, tokenizer=folder)
    contrasts = parts in ("pretrain", "filter")
    assert_same(again, med if contrasts else from_file(parts=parts, embed_dim=256))
    assert (info.format, info.parts, info.notes) == ("blip", parts, [])


def test_the_missing_temperature_of_the_lavis_matcher_is_replaced(folder):
    med = from_file(parts="filter")
    lavis_file(folder / "blip_image_text_matching.pth", med, without=["temp"])
    again, _, info = load_checkpoint(folder / "blip_image_text_matching.pth", "filter", tokenizer=folder)
    assert again.temp.item() == pytest.approx(0.07) and info.notes == [
        "the file has no temperature; using 0.07"
    ]
    assert torch.equal(again.itm_head.weight, med.itm_head.weight)


def test_unsupported_lavis_models_are_rejected(folder):
    med = from_file(parts="filter")
    lavis_file(folder / "blip_feature_extractor.pth", med, without=["itm_head"])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder / "blip_feature_extractor.pth", "filter", tokenizer=folder)
    assert caught.value.missing == ["itm_head.weight", "itm_head.bias"] and not caught.value.unexpected
    heads = {f"cls_head.{number}.bias": torch.zeros(2) for number in (0, 2)}
    lavis_file(
        folder / "blip_classification.pth",
        med,
        without=["vision_proj", "text_proj", "itm_head", "temp"],
        **heads,
    )
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder / "blip_classification.pth", "filter", tokenizer=folder)
    assert caught.value.unexpected == list(heads)
    assert "itm_head.weight" in caught.value.missing and len(caught.value.missing) == 6
