"""Checkpoints in capfilt format: exact round trips, parts, strictness, digests."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from capfilt.models.checkpoints.files import CheckpointError, checkpoint_digest
from capfilt.models.checkpoints.load import export_checkpoint, load_checkpoint, save_checkpoint
from tests.models.tiny_med import TEXT, TOKENIZER, VISION, assert_same, build


@pytest.fixture
def saved(tmp_path):
    """A pretrained MED and its checkpoint folder."""
    med = build()
    save_checkpoint(tmp_path / "med", med, TOKENIZER, {"run": "r", "parents": ["abc"]})
    return med, tmp_path / "med"


@pytest.mark.parametrize("sharing", ["all_but_sa", "all_but_ca", "all", "none"])
def test_a_round_trip_is_exact_and_keeps_ties(tmp_path, sharing):
    med = build(sharing=sharing)
    save_checkpoint(tmp_path, med, TOKENIZER, {"run": "r"})
    again, tokenizer, info = load_checkpoint(tmp_path, "pretrain")
    assert_same(again, med)
    assert (info.format, info.parts, info.provenance, info.notes) == ("capfilt", "pretrain", {"run": "r"}, [])
    assert tokenizer.backend.to_str() == TOKENIZER.backend.to_str()
    assert not again.training and len(list(again.parameters())) == len(list(med.parameters()))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_a_round_trip_keeps_a_conv_stem(tmp_path):
    med = build(vision=replace(VISION, stem="conv"))
    save_checkpoint(tmp_path, med, TOKENIZER, {})
    assert_same(load_checkpoint(tmp_path, "pretrain")[0], med)


def test_tied_tensors_are_stored_once(saved):
    med, folder = saved
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        stored = sum(file.get_tensor(name).numel() for name in file.keys())  # noqa: SIM118
    assert stored == sum(parameter.numel() for parameter in med.parameters())


@pytest.mark.parametrize("parts", ["captioner", "filter"])
def test_finetuning_starts_from_parts_of_a_pretrained_model(saved, parts):
    med, folder = saved
    part, _, info = load_checkpoint(folder, parts)
    whole = med.state_dict()
    assert part.config == replace(med.config, parts=parts) and info.parts == "pretrain"
    assert all(torch.equal(tensor, whole[name]) for name, tensor in part.state_dict().items())
    assert hasattr(part, "text_decoder") == (parts == "captioner")


def test_a_captioner_cannot_be_loaded_as_a_filter(tmp_path):
    save_checkpoint(tmp_path, build(parts="captioner"), TOKENIZER, {})
    with pytest.raises(
        CheckpointError,
        match='is a "captioner" and cannot be loaded as a "filter": use a "filter" or a "pretrain"',
    ):
        load_checkpoint(tmp_path, "filter")


def test_another_image_size_resamples_positions_only(saved):
    med, folder = saved
    larger, _, _ = load_checkpoint(folder, "pretrain", image_size=64)
    assert larger.config.vision.image_size == 64
    before, after = med.state_dict(), larger.state_dict()
    changed = [name for name in after if not torch.equal(after[name], before[name])]
    assert changed == ["visual_encoder.pos_embed"] and after[changed[0]].shape == (1, 65, 24)
    assert larger.encode_image(torch.randn(1, 3, 64, 64)).shape == (1, 65, 24)


def test_training_settings_can_be_adapted(saved):
    _, folder = saved

    def adapt(config):
        return replace(config, vision=replace(config.vision, checkpoint_layers=1, drop_path=0.3))

    med, _, _ = load_checkpoint(folder, "captioner", adapt=adapt)
    assert med.config.vision.checkpoint_layers == 1 and med.config.vision.drop_path == 0.3
    with pytest.raises(CheckpointError, match=r"itm_head.weight|norm1.weight"):
        load_checkpoint(folder, "captioner", adapt=lambda c: replace(c, vision=replace(c.vision, width=48)))


def error_after(folder, change):
    """Apply `change` to the stored tensors; returns the error of loading them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, "captioner")
    return caught.value


def test_missing_tensors_are_listed(saved):
    error = error_after(saved[1], lambda tensors: tensors.pop("visual_encoder.norm.bias"))
    assert error.missing == ["visual_encoder.norm.bias"]
    assert "1 missing: visual_encoder.norm.bias" in str(error) and str(saved[1]) in str(error)


def test_unexpected_tensors_are_listed_even_if_their_part_is_not_loaded(saved):
    error = error_after(
        saved[1], lambda tensors: tensors.update({"text_encoder.pooler.weight": torch.zeros(2)})
    )
    assert error.unexpected == ["text_encoder.pooler.weight"] and error.missing == []
    assert "1 unexpected: text_encoder.pooler.weight" in str(error)


def test_misshaped_tensors_are_listed_with_both_shapes(saved):
    error = error_after(saved[1], lambda tensors: tensors.update({"itm_head.weight": torch.zeros(3, 32)}))
    assert error.misshaped == ["itm_head.weight (3, 32), expected (2, 32)"]
    assert error.misshaped[0] in str(error)


def test_long_lists_are_shortened_only_in_the_message(saved):
    def change(tensors):
        for name in [name for name in tensors if name.startswith("text_encoder.encoder")]:
            del tensors[name]

    error = error_after(saved[1], change)
    assert len(error.missing) > 20 and "\n" not in str(error)
    assert f"and {len(error.missing) - 20} more" in str(error)


def test_truncated_files_are_rejected(saved):
    _, folder = saved
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(folder, "pretrain")


def test_folders_without_a_checkpoint_are_rejected(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_checkpoint(tmp_path, "pretrain")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        load_checkpoint(tmp_path, "pretrain")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="neither a capfilt-med nor a BLIP of transformers"):
        load_checkpoint(tmp_path, "pretrain")


def test_another_format_version_is_rejected(saved):
    config = saved[1] / "config.json"
    config.write_text(config.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match="has format version 2, expected 1"):
        load_checkpoint(saved[1], "pretrain")


def test_an_invalid_config_is_rejected(saved):
    config = saved[1] / "config.json"
    config.write_text(config.read_text().replace('"embed_dim"', '"embed"'))
    with pytest.raises(
        CheckpointError, match=r"config\.json has no valid model config: model: unknown key embed;"
    ):
        load_checkpoint(saved[1], "pretrain")


def test_a_tokenizer_larger_than_the_model_cannot_be_saved(tmp_path):
    small = build(text=replace(TEXT, vocab_size=TOKENIZER.vocab_size - 1))
    with pytest.raises(
        ValueError, match=r"tokenizer has \d+ entries, the model only \d+: use the model's tokenizer"
    ):
        save_checkpoint(tmp_path, small, TOKENIZER, {})


def test_saving_over_a_checkpoint_replaces_its_files(saved):
    _, folder = saved
    (folder / "notes.txt").write_text("mine")
    names = {file.name for file in folder.iterdir()}
    second = build(sharing="none")
    save_checkpoint(folder, second, TOKENIZER, {})
    assert_same(load_checkpoint(folder, "pretrain")[0], second)
    assert {file.name for file in folder.iterdir()} == names


def test_a_failed_save_keeps_the_old_checkpoint(saved):
    med, folder = saved
    with pytest.raises(TypeError):
        save_checkpoint(folder, build(sharing="none"), TOKENIZER, {"not json": object()})
    assert_same(load_checkpoint(folder, "pretrain")[0], med)
    assert not list(folder.glob(".partial*"))


def test_the_digest_depends_on_weights_and_tokenizer_but_not_on_provenance(saved, tmp_path):
    med, folder = saved
    digest = checkpoint_digest(folder)
    save_checkpoint(tmp_path / "again", med, TOKENIZER, {"run": "another"})
    assert checkpoint_digest(tmp_path / "again") == digest and len(digest) == 64
    with torch.no_grad():
        med.temp += 1e-3
    save_checkpoint(tmp_path / "again", med, TOKENIZER, {})
    assert checkpoint_digest(tmp_path / "again") != digest
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + "\n")
    assert checkpoint_digest(folder) != digest
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        checkpoint_digest(tmp_path / "nothing")


def test_a_whole_model_cannot_be_exported_to_transformers(saved, tmp_path):
    with pytest.raises(CheckpointError, match='export its "captioner" or its "filter"'):
        export_checkpoint(saved[1], tmp_path / "hf", to="hf")


@pytest.mark.parametrize(("count", "shown", "rest"), [(20, 20, ""), (21, 20, " and 1 more")])
def test_up_to_20_names_are_shown(count, shown, rest):
    names = [f"tensor{i}" for i in range(count)]
    error = CheckpointError("bad", missing=names)
    assert str(error) == f"bad; {count} missing: {', '.join(names[:shown])}{rest}"
    assert error.missing == names


def test_a_tokenizer_as_large_as_the_model_can_be_saved(tmp_path):
    med = build(text=replace(TEXT, vocab_size=TOKENIZER.vocab_size))
    save_checkpoint(tmp_path, med, TOKENIZER, {})
    assert load_checkpoint(tmp_path, "pretrain")[1].vocab_size == med.config.text.vocab_size
