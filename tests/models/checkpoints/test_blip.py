"""Checkpoints in the format of salesforce/BLIP: exact round trips, strictness, no execution of pickled
code."""

import pickle
from dataclasses import replace

import pytest
import torch

from capfilt.models.checkpoints.files import CheckpointError, checkpoint_digest
from capfilt.models.checkpoints.load import export_checkpoint, load_checkpoint, save_checkpoint
from capfilt.models.config import VisionConfig
from tests.models.tiny_med import TEXT, TOKENIZER, VISION, assert_same, build


@pytest.mark.parametrize("sharing", ["all_but_sa", "none"])
@pytest.mark.parametrize("parts", ["pretrain", "captioner", "filter"])
def test_a_round_trip_through_pth_is_exact(tmp_path, parts, sharing):
    med = build(parts=parts, sharing=sharing)
    save_checkpoint(tmp_path / "capfilt", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "capfilt", tmp_path / "blip.pth", to="blip")
    back, _, info = load_checkpoint(tmp_path / "blip.pth", parts, tokenizer=tmp_path / "capfilt")
    assert_same(back, med)
    assert info.format == "blip"
    assert len(checkpoint_digest(tmp_path / "blip.pth")) == 64


def reference_file(path, med, **extra):
    """Write what salesforce/BLIP writes: the model, momentum copies, queues and index buffers, but no
    MedConfig."""
    state = dict(med.state_dict())
    copies = {f"{name}_m.weight": torch.zeros(3) for name in ("visual_encoder", "text_proj")}
    buffers = {
        "text_encoder.embeddings.position_ids": torch.arange(512)[None],
        "image_queue": torch.zeros(4, 8),
        "queue_ptr": torch.zeros(1, dtype=torch.long),
        "ptr_queue": torch.zeros(1, dtype=torch.long),
        "idx_queue": torch.zeros(1, 8),
    }
    content = {"model": state | copies | buffers | extra, "epoch": 19, "config": {"vit": "base"}}
    torch.save(content, path)


@pytest.mark.parametrize("sharing", ["all_but_sa", "all_but_ca", "all", "none"])
def test_sizes_and_sharing_are_inferred_from_a_reference_file(tmp_path, sharing):
    vision = VisionConfig(image_size=48, patch_size=16, width=128, depth=1, heads=2)
    text = replace(TEXT, width=64, heads=1, dropout=0.1)
    med = build(vision=vision, text=text, sharing=sharing)
    reference_file(tmp_path / "model_base.pth", med)
    TOKENIZER.save(tmp_path)
    assert_same(load_checkpoint(tmp_path / "model_base.pth", "pretrain", tokenizer=tmp_path)[0], med)
    part, _, _ = load_checkpoint(tmp_path / "model_base.pth", "captioner", image_size=64, tokenizer=tmp_path)
    assert part.config.vision.tokens == 17


def test_reference_files_are_read_strictly(tmp_path):
    TOKENIZER.save(tmp_path)
    med = build(
        vision=replace(VISION, width=64, heads=1, drop_path=0.0), text=replace(TEXT, width=64, heads=1)
    )
    reference_file(tmp_path / "nlvr.pth", med, **{"cls_head.0.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "nlvr.pth", "pretrain", tokenizer=tmp_path)
    assert caught.value.unexpected == ["cls_head.0.weight"]
    with pytest.raises(CheckpointError, match="contains no tokenizer: give the folder"):
        reference_file(tmp_path / "good.pth", med)
        load_checkpoint(tmp_path / "good.pth", "pretrain")
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"has no visual_encoder\.pos_embed"):
        load_checkpoint(tmp_path / "other.pth", "pretrain", tokenizer=tmp_path)


class Bomb:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_in_a_pickle_is_not_executed(tmp_path, capsys):
    TOKENIZER.save(tmp_path)
    torch.save({"model": {"visual_encoder.pos_embed": Bomb()}}, tmp_path / "zip.pth")
    (tmp_path / "legacy.pth").write_bytes(pickle.dumps({"model": Bomb()}))
    for name in ("zip.pth", "legacy.pth"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as plain tensors"):
            load_checkpoint(tmp_path / name, "pretrain", tokenizer=tmp_path)
    assert "ran" not in capsys.readouterr().out


def test_momentum_copies_need_no_space_in_a_pth(tmp_path):
    """The loaders of the reference need them; they share the storage of the originals."""
    save_checkpoint(tmp_path / "capfilt", build(parts="filter"), TOKENIZER, {})
    export_checkpoint(tmp_path / "capfilt", tmp_path / "blip.pth", to="blip")
    content = torch.load(tmp_path / "blip.pth", weights_only=True)["model"]
    online = content["visual_encoder.pos_embed"]
    assert content["visual_encoder_m.pos_embed"].data_ptr() == online.data_ptr()
    assert content["text_encoder.embeddings.position_ids"].tolist() == [list(range(20))]
    parameters = sum(file.stat().st_size for file in (tmp_path / "capfilt").glob("*.safetensors"))
    assert (tmp_path / "blip.pth").stat().st_size < 1.5 * parameters


def test_a_conv_stem_cannot_be_exported(tmp_path):
    save_checkpoint(tmp_path, build(vision=replace(VISION, stem="conv")), TOKENIZER, {})
    for to, parts in (("blip", "pretrain"), ("hf", "filter")):
        with pytest.raises(CheckpointError, match=r'vision\.stem is "conv"'):
            export_checkpoint(tmp_path, tmp_path / "out", to=to, parts=parts)
