"""Checkpoints of VQA and NLVR2: names as others write them, round trips, strictness, starts of finetuning."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipForQuestionAnswering

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.load import export_checkpoint, load_checkpoint, save_checkpoint
from tests.models import blip_oracle
from tests.models.tiny_med import TEXT, TOKENIZER, VISION, assert_same, build, from_file

ONE_WIDTH = replace(VISION, width=32, heads=4)
LAYER = "text_encoder.encoder.layer."


@pytest.fixture
def words(tmp_path):
    """Folder of the tokenizer that a .pth needs."""
    TOKENIZER.save(tmp_path)
    return tmp_path


# --- salesforce/BLIP


def blip_vqa_names(depth: int, blocks: int) -> set[str]:
    """Every name in a file of salesforce/BLIP models/blip_vqa.py (shared facts: docs of its layout)."""
    ends = ("weight", "bias")
    names = image_names(blocks)
    for text in ("text_encoder.", "text_decoder.bert."):
        names |= text_names(text, depth)
        for layer in range(depth):
            cross = f"{text}encoder.layer.{layer}.crossattention."
            names |= {f"{cross}self.{part}.{end}" for part in ("query", "key", "value") for end in ends}
            names |= {f"{cross}output.{part}.{end}" for part in ("dense", "LayerNorm") for end in ends}
    head = "text_decoder.cls.predictions."
    names |= {f"{head}{part}.{end}" for part in ("decoder", "transform.dense") for end in ends}
    return names | {f"{head}bias"} | {f"{head}transform.LayerNorm.{end}" for end in ends}


def blip_nlvr_names(depth: int, blocks: int) -> set[str]:
    """Every name in a file of salesforce/BLIP models/blip_nlvr.py."""
    ends = ("weight", "bias")
    names = image_names(blocks) | text_names("text_encoder.", depth)
    names |= {f"cls_head.{number}.{end}" for number in (0, 2) for end in ends}
    for layer in range(depth):
        cross = f"{LAYER}{layer}.crossattention."
        for image in "01":
            names |= {
                f"{cross}self{image}.{part}.{end}" for part in ("query", "key", "value") for end in ends
            }
            names |= {f"{cross}output.dense{image}.{end}" for end in ends}
        names |= {f"{cross}output.LayerNorm.{end}" for end in ends}
        if layer >= depth // 2:
            names |= {f"{cross}output.merge_layer.{end}" for end in ends}
    return names


def image_names(blocks: int) -> set[str]:
    ends = ("weight", "bias")
    parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    names = {f"blocks.{block}.{part}.{end}" for block in range(blocks) for part in parts for end in ends}
    names |= {f"{part}.{end}" for part in ("norm", "patch_embed.proj") for end in ends}
    return {f"visual_encoder.{name}" for name in names | {"cls_token", "pos_embed"}}


def text_names(prefix: str, depth: int) -> set[str]:
    ends = ("weight", "bias")
    parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
    parts += ["attention.output.dense", "attention.output.LayerNorm", "intermediate.dense"]
    parts += ["output.dense", "output.LayerNorm"]
    names = {
        f"encoder.layer.{layer}.{part}.{end}" for layer in range(depth) for part in parts for end in ends
    }
    names |= {f"embeddings.LayerNorm.{end}" for end in ends} | {"embeddings.position_ids"}
    names |= {f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position")}
    return {prefix + name for name in names}


@pytest.mark.parametrize(("parts", "due"), [("vqa", blip_vqa_names), ("nlvr", blip_nlvr_names)])
def test_ours_to_pth_and_back_to_the_bit_under_the_names_of_blip(words, parts, due):
    med = build(parts=parts, text=replace(TEXT, depth=3))
    save_checkpoint(words / "ours", med, TOKENIZER, {})
    export_checkpoint(words / "ours", words / "blip.pth", to="blip")
    assert set(torch.load(words / "blip.pth", weights_only=True)["model"]) == due(depth=3, blocks=2)
    back, _, info = load_checkpoint(words / "blip.pth", parts, tokenizer=words)
    assert_same(back, med)
    assert (info.format, info.parts, info.notes, info.new) == ("blip", parts, [], [])


@pytest.mark.parametrize("parts", ["vqa", "nlvr"])
def test_a_file_without_our_config_tells_what_it_is(words, parts):
    med = from_file(parts=parts)
    ids = torch.arange(20)[None]
    state = dict(med.state_dict()) | {"text_encoder.embeddings.position_ids": ids}
    torch.save({"model": state, "epoch": 9, "config": {"vit": "base"}}, words / "model.pth")
    again, _, info = load_checkpoint(words / "model.pth", parts, tokenizer=words)
    # sizes that only contrast has are unknown to such a file, and without effect
    assert_same(again, from_file(parts=parts, embed_dim=256))
    assert info.parts == parts
    if parts == "vqa":  # image 128 wide, questions 64
        assert again.text_decoder.bert.layers[0].crossattention.self.key.weight.shape == (64, 64)


@pytest.mark.parametrize("parts", ["vqa", "nlvr"])
def test_what_is_wrong_with_a_file_is_named(words, parts):
    state = dict(from_file(parts=parts).state_dict())
    gone = {"vqa": "text_decoder.bert.encoder.layer.1.output.dense.bias", "nlvr": "cls_head.2.weight"}[parts]
    narrow = {
        "vqa": "text_decoder.bert.encoder.layer.0.crossattention.self.key.weight",
        "nlvr": f"{LAYER}1.crossattention.output.merge_layer.weight",
    }[parts]
    extra = {"vqa": "cls_head.0.weight", "nlvr": f"{LAYER}0.crossattention.output.merge_layer.weight"}[parts]
    shape = tuple(state[narrow].shape)
    del state[gone]
    state |= {narrow: torch.zeros(shape[0], shape[1] - 1), extra: torch.zeros(2)}
    torch.save({"model": state}, words / "model.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(words / "model.pth", parts, tokenizer=words)
    error = caught.value
    assert (error.missing, error.unexpected) == ([gone], [extra])
    assert error.misshaped == [f"{narrow} {(shape[0], shape[1] - 1)} where {shape} is due"]
    assert all(name in str(error) for name in (gone, narrow, extra)) and "\n" not in str(error)


@pytest.mark.parametrize("parts", ["vqa", "nlvr"])
def test_no_other_part_is_made_of_a_finetuned_one(tmp_path, parts):
    save_checkpoint(tmp_path, build(parts=parts), TOKENIZER, {})
    assert_same(load_checkpoint(tmp_path, parts)[0], build(parts=parts))
    for other in ("captioner", "filter", "pretrain"):
        with pytest.raises(CheckpointError, match=f"holds a {parts}, no {other} can be made of it"):
            load_checkpoint(tmp_path, other)


# --- starts of finetuning


def test_vqa_starts_from_both_towers_which_then_go_apart(tmp_path):
    whole = build(vision=ONE_WIDTH)
    save_checkpoint(tmp_path, whole, TOKENIZER, {})
    med, _, info = load_checkpoint(tmp_path, "vqa")
    due = whole.state_dict()
    assert info.new == [] and info.parts == "pretrain"
    assert all(torch.equal(tensor, due[name]) for name, tensor in med.state_dict().items())
    addresses = [parameter.data_ptr() for parameter in med.parameters()]
    assert len(set(addresses)) == len(addresses)
    with torch.no_grad():
        med.text_encoder.embeddings.word_embeddings.weight.zero_()
    assert med.text_decoder.bert.embeddings.word_embeddings.weight.any()


def test_a_decoder_that_read_wider_images_reads_questions_with_new_matrices(tmp_path):
    """As with ViT-L, where the reference drops them without a word; their biases fit and stay."""
    whole = build()
    save_checkpoint(tmp_path, whole, TOKENIZER, {})
    torch.manual_seed(3)
    med, _, info = load_checkpoint(tmp_path, "vqa")
    new = "text_decoder.bert.encoder.layer.{}.crossattention.self.{}.weight"
    assert info.new == [new.format(layer, part) for layer in (0, 1) for part in ("key", "value")]
    assert info.notes == ["4 tensors of a vqa are new and random"]
    due = whole.state_dict()
    kept = {name: tensor for name, tensor in med.state_dict().items() if name not in info.new}
    assert all(torch.equal(tensor, due[name]) for name, tensor in kept.items())
    assert_seeded(tmp_path, "vqa", med, info)


def test_nlvr_starts_with_two_copies_of_cross_attention(tmp_path):
    whole = build()
    save_checkpoint(tmp_path, whole, TOKENIZER, {})
    torch.manual_seed(3)
    med, _, info = load_checkpoint(tmp_path, "nlvr")
    due, found = whole.state_dict(), med.state_dict()
    merge = f"{LAYER}1.crossattention.output.merge_layer."
    heads = [f"cls_head.{number}.{end}" for number in (0, 2) for end in ("weight", "bias")]
    assert info.new == [f"{merge}weight", f"{merge}bias", *heads]
    for name, tensor in found.items():
        one = (
            name.replace("self0", "self")
            .replace("self1", "self")
            .replace("dense0", "dense")
            .replace("dense1", "dense")
        )
        assert name in info.new or torch.equal(tensor, due[one])
    assert not found[f"{merge}bias"].any() and 0.01 < found[f"{merge}weight"].std() < 0.03  # as BERT is born
    twins = [med.text_encoder.layers[0].crossattention.self0, med.text_encoder.layers[0].crossattention.self1]
    with torch.no_grad():
        twins[0].query.weight.zero_()
    assert twins[1].query.weight.any()
    assert_seeded(tmp_path, "nlvr", load_again(tmp_path, "nlvr", seed=3), info)


def load_again(folder, parts, seed):
    torch.manual_seed(seed)
    return load_checkpoint(folder, parts)[0]


def assert_seeded(folder, parts, med, info):
    """The caller's seed decides what is new."""
    assert_same(load_again(folder, parts, seed=3), med)
    other = load_again(folder, parts, seed=4).state_dict()
    differ = [name for name, tensor in med.state_dict().items() if not torch.equal(tensor, other[name])]
    assert differ and set(differ) <= set(info.new)


# --- transformers


def test_vqa_to_transformers_and_back_to_the_bit(tmp_path):
    med = build(parts="vqa", vision=ONE_WIDTH)
    save_checkpoint(tmp_path / "ours", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "ours", tmp_path / "hf", to="hf")
    export_checkpoint(tmp_path / "hf", tmp_path / "back", to="capfilt")
    assert_same(load_checkpoint(tmp_path / "back", "vqa")[0], med)


@torch.no_grad()
def test_transformers_answers_with_our_weights(tmp_path):
    med = build(parts="vqa", vision=ONE_WIDTH).eval()
    save_checkpoint(tmp_path / "ours", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "ours", tmp_path / "hf")
    hf, report = BlipForQuestionAnswering.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["BlipForQuestionAnswering"] and config["capfilt"]["parts"] == "vqa"
    assert hf.config.vision_config.layer_norm_eps == 1e-6 and hf.config.text_config.num_attention_heads == 4
    pixels = torch.randn(2, 3, 32, 32)
    question, mask = TOKENIZER.encode(["on a red car", "a small blue cat"], 6, first="enc")
    answer, _ = TOKENIZER.encode(["two dogs", "a tree"], 8, first="dec")
    seen = []
    hf.eval().text_decoder.register_forward_hook(lambda _module, _inputs, out: seen.append(out.logits))
    hf(pixel_values=pixels, input_ids=question, attention_mask=mask, decoder_input_ids=answer)
    states = med.encode_text(question, mask, med.cross_kv(med.encode_image(pixels), "encoder"))
    ours = med.answer(answer, med.cross_kv(states, "decoder"), mask)
    torch.testing.assert_close(seen[0], ours, atol=1e-5, rtol=0)


def test_folders_that_transformers_wrote_load(tmp_path):
    hf = blip_oracle.hf_answerer(TOKENIZER)
    hf.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    med, _, info = load_checkpoint(tmp_path, "vqa")
    due = blip_oracle.med_of(hf).state_dict()
    assert (info.format, info.parts, info.notes) == ("hf", "vqa", [])
    assert all(torch.equal(tensor, due[name]) for name, tensor in med.state_dict().items())


def test_what_is_wrong_with_a_folder_of_transformers_is_named(tmp_path):
    blip_oracle.hf_answerer(TOKENIZER).save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = "text_decoder.cls.predictions.transform.dense.bias"
    del tensors[gone]
    tensors |= {
        "text_decoder.bert.pooler.weight": torch.zeros(2),
        "text_encoder.embeddings.LayerNorm.bias": torch.zeros(3),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path, "vqa")
    error = caught.value
    assert (error.missing, error.unexpected) == ([gone], ["text_decoder.bert.pooler.weight"])
    assert error.misshaped == ["text_encoder.embeddings.LayerNorm.bias (3,) where (32,) is due"]
