"""Checkpoints: round trips to the bit through every format, transformers as reader, and strictness."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipProcessor

from models.checkpoints import export_checkpoint, load_checkpoint, save_checkpoint
from models.config import VisionConfig
from models.files import CheckpointError, checkpoint_digest
from models.foreign_hf import rename_from_hf, rename_to_hf
from tests.models import blip_oracle
from tests.models.tiny_med import TEXT, TOKENIZER, VISION, assert_same, build


@pytest.fixture
def saved(tmp_path):
    """A pretrained MED and the folder it was saved to."""
    med = build()
    save_checkpoint(tmp_path / "med", med, TOKENIZER, {"run": "r", "parents": ["abc"]})
    return med, tmp_path / "med"


@pytest.mark.parametrize("sharing", ["all_but_sa", "all_but_ca", "all", "none"])
def test_a_saved_model_comes_back_to_the_bit_and_tied(tmp_path, sharing):
    med = build(sharing=sharing)
    save_checkpoint(tmp_path, med, TOKENIZER, {"run": "r"})
    again, words, info = load_checkpoint(tmp_path, "pretrain")
    assert_same(again, med)
    assert (info.format, info.parts, info.provenance, info.notes) == ("capfilt", "pretrain", {"run": "r"}, [])
    assert words.backend.to_str() == TOKENIZER.backend.to_str()
    assert not again.training and len(list(again.parameters())) == len(list(med.parameters()))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_a_conv_stem_comes_back_too(tmp_path):
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


def test_a_part_is_not_enough_for_the_whole(tmp_path):
    save_checkpoint(tmp_path, build(parts="captioner"), TOKENIZER, {})
    with pytest.raises(CheckpointError, match="holds a captioner, no filter"):
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

    def thrifty(config):
        return replace(config, vision=replace(config.vision, checkpoint_layers=1, drop_path=0.3))

    med, _, _ = load_checkpoint(folder, "captioner", adapt=thrifty)
    assert med.config.vision.checkpoint_layers == 1 and med.config.vision.drop_path == 0.3
    with pytest.raises(CheckpointError, match=r"itm_head.weight|norm1.weight"):
        load_checkpoint(folder, "captioner", adapt=lambda c: replace(c, vision=replace(c.vision, width=48)))


def broken(folder, change):
    """Rewrites the stored tensors through `change` and returns the error of loading them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder, "captioner")
    return caught.value


def test_missing_tensors_are_named(saved):
    error = broken(saved[1], lambda tensors: tensors.pop("visual_encoder.norm.bias"))
    assert error.missing == ["visual_encoder.norm.bias"]
    assert "1 missing: visual_encoder.norm.bias" in str(error) and str(saved[1]) in str(error)


def test_unexpected_tensors_are_named_even_where_they_are_not_needed(saved):
    error = broken(saved[1], lambda tensors: tensors.update({"text_encoder.pooler.weight": torch.zeros(2)}))
    assert error.unexpected == ["text_encoder.pooler.weight"] and error.missing == []
    assert "1 unexpected: text_encoder.pooler.weight" in str(error)


def test_misshaped_tensors_are_named_with_both_shapes(saved):
    error = broken(saved[1], lambda tensors: tensors.update({"itm_head.weight": torch.zeros(3, 32)}))
    assert error.misshaped == ["itm_head.weight (3, 32) where (2, 32) is due"]
    assert error.misshaped[0] in str(error)


def test_long_lists_are_shortened_in_the_message_only(saved):
    def change(tensors):
        for name in [name for name in tensors if name.startswith("text_encoder.encoder")]:
            del tensors[name]

    error = broken(saved[1], change)
    assert len(error.missing) > 20 and "\n" not in str(error)
    assert f"and {len(error.missing) - 20} more" in str(error)


def test_truncated_files_are_named(saved):
    _, folder = saved
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        load_checkpoint(folder, "pretrain")


def test_folders_that_are_no_checkpoint_are_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_checkpoint(tmp_path, "pretrain")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors"):
        load_checkpoint(tmp_path, "pretrain")
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="neither a capfilt-med nor a transformers BLIP"):
        load_checkpoint(tmp_path, "pretrain")


def test_a_newer_format_is_refused(saved):
    config = saved[1] / "config.json"
    config.write_text(config.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(CheckpointError, match="version 2"):
        load_checkpoint(saved[1], "pretrain")


def test_an_edited_config_is_named(saved):
    config = saved[1] / "config.json"
    config.write_text(config.read_text().replace('"embed_dim"', '"embed"'))
    with pytest.raises(CheckpointError, match=r"config\.json describes no model \(model: unknown key embed;"):
        load_checkpoint(saved[1], "pretrain")


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path):
    small = build(text=replace(TEXT, vocab_size=TOKENIZER.vocab_size - 1))
    with pytest.raises(ValueError, match="no pair"):
        save_checkpoint(tmp_path, small, TOKENIZER, {})


def test_saving_over_a_checkpoint_replaces_it_and_leaves_no_trace(saved):
    _, folder = saved
    (folder / "notes.txt").write_text("mine")
    names = {file.name for file in folder.iterdir()}
    second = build(sharing="none")
    save_checkpoint(folder, second, TOKENIZER, {})
    assert_same(load_checkpoint(folder, "pretrain")[0], second)
    assert {file.name for file in folder.iterdir()} == names


def test_a_failed_save_leaves_the_old_checkpoint_whole(saved):
    med, folder = saved
    with pytest.raises(TypeError):
        save_checkpoint(folder, build(sharing="none"), TOKENIZER, {"not json": object()})
    assert_same(load_checkpoint(folder, "pretrain")[0], med)
    assert not list(folder.glob(".partial*"))


def test_digest_follows_weights_config_and_tokenizer_but_not_provenance(saved, tmp_path):
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


# --- transformers


@pytest.mark.parametrize("parts", ["captioner", "filter"])
def test_ours_to_transformers_and_back_to_the_bit(tmp_path, parts):
    med = build(parts=parts)
    save_checkpoint(tmp_path / "ours", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", to="hf")
    export_checkpoint(tmp_path / "hf", tmp_path / "back", to="capfilt")
    back, words, info = load_checkpoint(tmp_path / "back", parts)
    assert_same(back, med)
    assert words.backend.to_str() == TOKENIZER.backend.to_str() and info.format == "capfilt"


def test_transformers_reads_our_captioner(tmp_path):
    med = build(parts="captioner").eval()
    save_checkpoint(tmp_path / "ours", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "ours", tmp_path / "hf")
    hf, report = BlipForConditionalGeneration.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    pixels = torch.randn(2, 3, 32, 32)
    ids, _ = TOKENIZER.encode(["a red dog", "two birds in"], 9, first="dec")
    with torch.no_grad():
        ours = med.decode(ids, med.cross_kv(med.encode_image(pixels), "decoder"))
        torch.testing.assert_close(
            hf.eval()(pixel_values=pixels, input_ids=ids).logits, ours, atol=1e-5, rtol=0
        )
    text = hf.config.text_config
    assert (text.bos_token_id, text.sep_token_id, text.pad_token_id) == (
        TOKENIZER.dec_id,
        TOKENIZER.sep_id,
        0,
    )
    assert text.label_smoothing == 0.1 and hf.config.vision_config.layer_norm_eps == 1e-6


def test_transformers_reads_our_filter_and_its_processor(tmp_path):
    med = build().eval()
    save_checkpoint(tmp_path / "ours", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", parts="filter")
    hf, report = BlipForImageTextRetrieval.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    processor = BlipProcessor.from_pretrained(tmp_path / "hf")
    picture = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    inputs = processor(images=picture, text="a red dog", return_tensors="pt")
    ids, mask = TOKENIZER.encode(["a red dog"], 20)
    assert torch.equal(inputs["input_ids"], ids) and inputs["pixel_values"].shape == (1, 3, 32, 32)
    with torch.no_grad():
        kv = med.cross_kv(med.encode_image(inputs["pixel_values"]), "encoder")
        theirs = hf.eval()(pixel_values=inputs["pixel_values"], input_ids=ids, attention_mask=mask).itm_score
        torch.testing.assert_close(theirs, med.match(ids, mask, kv), atol=1e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").convert_tokens_to_ids("[ENC]") == TOKENIZER.enc_id


@pytest.mark.parametrize("parts", ["captioner", "filter"])
def test_folders_that_transformers_wrote_load(tmp_path, parts):
    hf = (blip_oracle.hf_captioner if parts == "captioner" else blip_oracle.hf_matcher)(TOKENIZER)
    hf.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    med, _, info = load_checkpoint(tmp_path, parts)
    due = blip_oracle.med_of(hf).state_dict()
    assert info.format == "hf" and info.parts == parts
    assert all(torch.equal(tensor, due[name]) for name, tensor in med.state_dict().items())
    assert [("temperature" in note) for note in info.notes] == [True] * (parts == "filter")
    assert med.config.text.heads == 4 and med.config.text.dropout == 0.1


def test_an_eps_that_is_not_blips_is_said(tmp_path):
    hf = blip_oracle.hf_captioner(TOKENIZER)
    hf.config.vision_config.layer_norm_eps = 1e-5
    hf.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    assert "1e-05" in load_checkpoint(tmp_path, "captioner")[2].notes[0]


def test_an_untied_language_model_head_is_refused(tmp_path):
    hf = blip_oracle.hf_captioner(TOKENIZER)
    hf.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    words = "text_decoder.bert.embeddings.word_embeddings.weight"
    tensors["text_decoder.cls.predictions.decoder.weight"] = tensors[words] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"predictions\.decoder\.weight and .*word_embeddings"):
        load_checkpoint(tmp_path, "captioner")


def test_a_whole_model_has_no_class_in_transformers(saved, tmp_path):
    with pytest.raises(CheckpointError, match='export a "captioner" or a "filter"'):
        export_checkpoint(saved[1], tmp_path / "hf", to="hf")


def test_names_of_both_worlds_translate_both_ways():
    pairs = {
        "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
        "visual_encoder.blocks.11.norm2.bias": "vision_model.encoder.layers.11.layer_norm2.bias",
        "visual_encoder.blocks.0.attn.proj.weight": "vision_model.encoder.layers.0.self_attn.projection.weight",
        "visual_encoder.norm.weight": "vision_model.post_layernorm.weight",
        "text_decoder.cls.predictions.bias": "text_decoder.cls.predictions.bias",
    }
    assert {ours: rename_to_hf(ours) for ours in pairs} == pairs
    assert {rename_from_hf(theirs): theirs for theirs in pairs.values()} == pairs


# --- salesforce/BLIP


@pytest.mark.parametrize("sharing", ["all_but_sa", "none"])
@pytest.mark.parametrize("parts", ["pretrain", "captioner", "filter"])
def test_ours_to_pth_and_back_to_the_bit(tmp_path, parts, sharing):
    med = build(parts=parts, sharing=sharing)
    save_checkpoint(tmp_path / "ours", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "ours", tmp_path / "blip.pth", to="blip")
    back, _, info = load_checkpoint(tmp_path / "blip.pth", parts, tokenizer=tmp_path / "ours")
    assert_same(back, med)
    assert info.format == "blip"
    assert len(checkpoint_digest(tmp_path / "blip.pth")) == 64


def reference_file(path, med, **extra):
    """What salesforce/BLIP writes: the model, momentum copies, queues and index buffers, no config of ours."""
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
def test_a_reference_file_tells_its_sizes_and_sharing(tmp_path, sharing):
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
    with pytest.raises(CheckpointError, match="comes without a tokenizer"):
        reference_file(tmp_path / "good.pth", med)
        load_checkpoint(tmp_path / "good.pth", "pretrain")
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"has no visual_encoder\.pos_embed"):
        load_checkpoint(tmp_path / "other.pth", "pretrain", tokenizer=tmp_path)


class Bomb:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_code_inside_a_pickle_is_never_run(tmp_path, capsys):
    TOKENIZER.save(tmp_path)
    torch.save({"model": {"visual_encoder.pos_embed": Bomb()}}, tmp_path / "zip.pth")
    (tmp_path / "legacy.pth").write_bytes(pickle.dumps({"model": Bomb()}))
    for name in ("zip.pth", "legacy.pth"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as plain tensors"):
            load_checkpoint(tmp_path / name, "pretrain", tokenizer=tmp_path)
    assert "ran" not in capsys.readouterr().out


def test_momentum_copies_cost_no_room_in_a_pth(tmp_path):
    """The reference's loaders want them; they share their tensors' storage."""
    save_checkpoint(tmp_path / "ours", build(parts="filter"), TOKENIZER, {})
    export_checkpoint(tmp_path / "ours", tmp_path / "blip.pth", to="blip")
    content = torch.load(tmp_path / "blip.pth", weights_only=True)["model"]
    online = content["visual_encoder.pos_embed"]
    assert content["visual_encoder_m.pos_embed"].data_ptr() == online.data_ptr()
    assert content["text_encoder.embeddings.position_ids"].tolist() == [list(range(20))]
    parameters = sum(file.stat().st_size for file in (tmp_path / "ours").glob("*.safetensors"))
    assert (tmp_path / "blip.pth").stat().st_size < 1.5 * parameters


def test_a_conv_stem_stays_ours(tmp_path):
    save_checkpoint(tmp_path, build(vision=replace(VISION, stem="conv")), TOKENIZER, {})
    for to, parts in (("blip", "pretrain"), ("hf", "filter")):
        with pytest.raises(CheckpointError, match=r'vision\.stem is "conv"'):
            export_checkpoint(tmp_path, tmp_path / "out", to=to, parts=parts)
