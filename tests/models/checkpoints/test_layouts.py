"""Checkpoints of VQA and NLVR2: tensor names of other programs, round trips, strictness, finetuning
starts."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BlipForQuestionAnswering

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.load import export_checkpoint, load_checkpoint, save_checkpoint
from capfilt.models.network.med import Questions
from tests.models import blip_oracle
from tests.models.tiny_med import TEXT, TOKENIZER, VISION, assert_same, build, from_file

ONE_WIDTH = replace(VISION, width=32, heads=4)
LAYER = "text_encoder.encoder.layer."


@pytest.fixture
def folder(tmp_path):
    """A folder with the tokenizer that a .pth needs."""
    TOKENIZER.save(tmp_path)
    return tmp_path


# --- salesforce/BLIP


def blip_vqa_names(depth: int, blocks: int) -> set[str]:
    """All tensor names in a checkpoint of salesforce/BLIP models/blip_vqa.py."""
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
    """All tensor names in a checkpoint of salesforce/BLIP models/blip_nlvr.py."""
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


@pytest.mark.parametrize(("parts", "names"), [("vqa", blip_vqa_names), ("nlvr", blip_nlvr_names)])
def test_a_round_trip_through_pth_is_exact_and_uses_blips_names(folder, parts, names):
    med = build(parts=parts, text=replace(TEXT, depth=3))
    save_checkpoint(folder / "capfilt", med, TOKENIZER, {})
    export_checkpoint(folder / "capfilt", folder / "blip.pth", to="blip")
    assert set(torch.load(folder / "blip.pth", weights_only=True)["model"]) == names(depth=3, blocks=2)
    back, _, info = load_checkpoint(folder / "blip.pth", parts, tokenizer=folder)
    assert_same(back, med)
    assert (info.format, info.parts, info.notes, info.initialized) == ("blip", parts, [], [])


@pytest.mark.parametrize("parts", ["vqa", "nlvr"])
def test_parts_and_sizes_are_inferred_from_a_file_without_config(folder, parts):
    med = from_file(parts=parts)
    ids = torch.arange(20)[None]
    state = dict(med.state_dict()) | {"text_encoder.embeddings.position_ids": ids}
    torch.save({"model": state, "epoch": 9, "config": {"vit": "base"}}, folder / "model.pth")
    again, _, info = load_checkpoint(folder / "model.pth", parts, tokenizer=folder)
    # embed_dim is used only by ITC and cannot be inferred
    assert_same(again, from_file(parts=parts, embed_dim=256))
    assert info.parts == parts
    if parts == "vqa":  # images have width 128, questions 64
        assert again.text_decoder.bert.layers[0].crossattention.self.key.weight.shape == (64, 64)


@pytest.mark.parametrize("parts", ["vqa", "nlvr"])
def test_errors_of_a_pth_list_the_offending_tensors(folder, parts):
    state = dict(from_file(parts=parts).state_dict())
    missing = {"vqa": "text_decoder.bert.encoder.layer.1.output.dense.bias", "nlvr": "cls_head.2.weight"}[
        parts
    ]
    misshaped = {
        "vqa": "text_decoder.bert.encoder.layer.0.crossattention.self.key.weight",
        "nlvr": f"{LAYER}1.crossattention.output.merge_layer.weight",
    }[parts]
    extra = {"vqa": "cls_head.0.weight", "nlvr": f"{LAYER}0.crossattention.output.merge_layer.weight"}[parts]
    shape = tuple(state[misshaped].shape)
    del state[missing]
    state |= {misshaped: torch.zeros(shape[0], shape[1] - 1), extra: torch.zeros(2)}
    torch.save({"model": state}, folder / "model.pth")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(folder / "model.pth", parts, tokenizer=folder)
    error = caught.value
    assert (error.missing, error.unexpected) == ([missing], [extra])
    assert error.misshaped == [f"{misshaped} {(shape[0], shape[1] - 1)}, expected {shape}"]
    assert all(name in str(error) for name in (missing, misshaped, extra)) and "\n" not in str(error)


@pytest.mark.parametrize("parts", ["vqa", "nlvr"])
def test_a_finetuned_checkpoint_loads_only_as_its_own_parts(tmp_path, parts):
    save_checkpoint(tmp_path, build(parts=parts), TOKENIZER, {})
    assert_same(load_checkpoint(tmp_path, parts)[0], build(parts=parts))
    for other in ("captioner", "filter", "pretrain"):
        with pytest.raises(CheckpointError, match=f'is a "{parts}" and cannot be loaded as a "{other}"'):
            load_checkpoint(tmp_path, other)


# --- finetuning starts


def test_vqa_starts_from_encoder_and_decoder_without_sharing(tmp_path):
    whole = build(vision=ONE_WIDTH)
    save_checkpoint(tmp_path, whole, TOKENIZER, {})
    med, _, info = load_checkpoint(tmp_path, "vqa")
    expected = whole.state_dict()
    assert info.initialized == [] and info.parts == "pretrain"
    assert all(torch.equal(tensor, expected[name]) for name, tensor in med.state_dict().items())
    addresses = [parameter.data_ptr() for parameter in med.parameters()]
    assert len(set(addresses)) == len(addresses)
    with torch.no_grad():
        med.text_encoder.embeddings.word_embeddings.weight.zero_()
    assert med.text_decoder.bert.embeddings.word_embeddings.weight.any()


def test_a_decoder_of_wider_images_gets_new_projections_of_questions(tmp_path):
    """As with ViT-L, where the reference initializes them without a message. Their biases are kept."""
    whole = build()
    save_checkpoint(tmp_path, whole, TOKENIZER, {})
    torch.manual_seed(3)
    med, _, info = load_checkpoint(tmp_path, "vqa")
    new = "text_decoder.bert.encoder.layer.{}.crossattention.self.{}.weight"
    assert info.initialized == [new.format(layer, part) for layer in (0, 1) for part in ("key", "value")]
    assert info.notes == ["4 tensors of a vqa are randomly initialized"]
    expected = whole.state_dict()
    kept = {name: tensor for name, tensor in med.state_dict().items() if name not in info.initialized}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in kept.items())
    assert_seeded(tmp_path, "vqa", med, info)


def test_nlvr_starts_with_two_copies_of_cross_attention(tmp_path):
    whole = build()
    save_checkpoint(tmp_path, whole, TOKENIZER, {})
    torch.manual_seed(3)
    med, _, info = load_checkpoint(tmp_path, "nlvr")
    expected, loaded = whole.state_dict(), med.state_dict()
    merge = f"{LAYER}1.crossattention.output.merge_layer."
    heads = [f"cls_head.{number}.{end}" for number in (0, 2) for end in ("weight", "bias")]
    assert info.initialized == [f"{merge}weight", f"{merge}bias", *heads]
    for name, tensor in loaded.items():
        original = (
            name.replace("self0", "self")
            .replace("self1", "self")
            .replace("dense0", "dense")
            .replace("dense1", "dense")
        )
        assert name in info.initialized or torch.equal(tensor, expected[original])
    assert (
        not loaded[f"{merge}bias"].any() and 0.01 < loaded[f"{merge}weight"].std() < 0.03
    )  # BERT's initialization
    copies = [
        med.text_encoder.layers[0].crossattention.self0,
        med.text_encoder.layers[0].crossattention.self1,
    ]
    with torch.no_grad():
        copies[0].query.weight.zero_()
    assert copies[1].query.weight.any()
    assert_seeded(tmp_path, "nlvr", load_again(tmp_path, "nlvr", seed=3), info)


def load_again(folder, parts, seed):
    torch.manual_seed(seed)
    return load_checkpoint(folder, parts)[0]


def assert_seeded(folder, parts, med, info):
    """The caller's seed determines the new tensors."""
    assert_same(load_again(folder, parts, seed=3), med)
    other = load_again(folder, parts, seed=4).state_dict()
    differ = [name for name, tensor in med.state_dict().items() if not torch.equal(tensor, other[name])]
    assert differ and set(differ) <= set(info.initialized)


# --- transformers


def test_a_round_trip_of_vqa_through_transformers_is_exact(tmp_path):
    med = build(parts="vqa", vision=ONE_WIDTH)
    save_checkpoint(tmp_path / "capfilt", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "capfilt", tmp_path / "hf", to="hf")
    export_checkpoint(tmp_path / "hf", tmp_path / "back", to="capfilt")
    assert_same(load_checkpoint(tmp_path / "back", "vqa")[0], med)


@torch.no_grad()
def test_transformers_gives_the_same_answer_logits(tmp_path):
    med = build(parts="vqa", vision=ONE_WIDTH).eval()
    save_checkpoint(tmp_path / "capfilt", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "capfilt", tmp_path / "hf")
    hf, report = BlipForQuestionAnswering.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["architectures"] == ["BlipForQuestionAnswering"] and config["capfilt"]["parts"] == "vqa"
    assert hf.config.vision_config.layer_norm_eps == 1e-6 and hf.config.text_config.num_attention_heads == 4
    pixels = torch.randn(2, 3, 32, 32)
    question, mask = TOKENIZER.encode(["on a red car", "a small blue cat"], 6, first="enc")
    answer, _ = TOKENIZER.encode(["two dogs", "a tree"], 8, first="dec")
    outputs = []
    hf.eval().text_decoder.register_forward_hook(lambda _module, _inputs, out: outputs.append(out.logits))
    hf(pixel_values=pixels, input_ids=question, attention_mask=mask, decoder_input_ids=answer)
    states = med.encode_text(question, mask, med.cross_kv(med.encode_image(pixels), "encoder"))
    questions = Questions(kv=med.cross_kv(states, "decoder"), mask_QN=mask)
    ours = med.answer(answer, questions)
    torch.testing.assert_close(outputs[0], ours, atol=1e-5, rtol=0)


def test_folders_written_by_transformers_load(tmp_path):
    hf = blip_oracle.hf_answerer(TOKENIZER)
    hf.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    med, _, info = load_checkpoint(tmp_path, "vqa")
    expected = blip_oracle.med_of(hf).state_dict()
    assert (info.format, info.parts, info.notes) == ("hf", "vqa", [])
    assert all(torch.equal(tensor, expected[name]) for name, tensor in med.state_dict().items())


def test_errors_of_a_transformers_folder_list_the_offending_tensors(tmp_path):
    blip_oracle.hf_answerer(TOKENIZER).save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    missing = "text_decoder.cls.predictions.transform.dense.bias"
    del tensors[missing]
    tensors |= {
        "text_decoder.bert.pooler.weight": torch.zeros(2),
        "text_encoder.embeddings.LayerNorm.bias": torch.zeros(3),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path, "vqa")
    error = caught.value
    assert (error.missing, error.unexpected) == ([missing], ["text_decoder.bert.pooler.weight"])
    assert error.misshaped == ["text_encoder.embeddings.LayerNorm.bias (3,), expected (32,)"]
