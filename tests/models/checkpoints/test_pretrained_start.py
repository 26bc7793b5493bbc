"""Initialization from BERT and ViT, compared with the BERT of transformers and the ViT of timm."""

import json
from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, BertForPreTraining, BertModel

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.pretrained_start import load_text_start, load_vision_start
from capfilt.models.config import MedConfig, TextConfig, VisionConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.network.vit import interpolate_positions

ENTRIES = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "dog",
    "cat",
    "##s",
    "blue",
    "on",
    "the",
    "car",
]
TEXT = TextConfig(vocab_size=len(ENTRIES) + 2, width=32, depth=2, heads=4, ffn=48, max_positions=12)
VISION = VisionConfig(image_size=32, patch_size=8, width=24, depth=2, heads=3)
CLOSE = {"atol": 1e-5, "rtol": 0}


def build(text=TEXT, vision=VISION, **changes) -> MED:
    torch.manual_seed(1)
    return MED(MedConfig(vision=vision, text=text, embed_dim=8, **changes)).eval()


def bert_folder(folder, kind, **changes):
    """Save a BERT of transformers with random weights, and its vocabulary."""
    sizes = {
        "vocab_size": len(ENTRIES),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 16,
    }
    torch.manual_seed(0)
    bert = kind(BertConfig(**(sizes | changes))).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    bert.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(ENTRIES) + "\n")
    return bert


def sample(tokenizer, first="cls"):
    return tokenizer.encode(["a red dog on the blue cats", "the car"], 12, first=first)


@torch.no_grad()
def test_the_text_encoder_equals_bert(tmp_path):
    bert = bert_folder(tmp_path, BertModel)
    med = build(parts="filter")
    load_text_start(med, tmp_path)
    ids, mask = sample(Tokenizer.from_folder(tmp_path))
    states = bert(input_ids=ids, attention_mask=mask).last_hidden_state
    expected = torch.nn.functional.normalize(med.text_proj(states[:, 0]), dim=-1)
    torch.testing.assert_close(med.text_feature(ids, mask), expected, **CLOSE)


@torch.no_grad()
def test_first_layers_takes_the_first_layers_of_a_deeper_bert(tmp_path):
    bert = bert_folder(tmp_path, BertModel, num_hidden_layers=3)
    med = build(parts="filter")
    load_text_start(med, tmp_path, first_layers=True)
    ids, mask = sample(Tokenizer.from_folder(tmp_path))
    states = bert(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[2]
    expected = torch.nn.functional.normalize(med.text_proj(states[:, 0]), dim=-1)
    torch.testing.assert_close(med.text_feature(ids, mask), expected, **CLOSE)
    with pytest.raises(CheckpointError, match=r"missing: encoder.layer.3"):
        load_text_start(build(text=replace(TEXT, depth=4)), tmp_path, first_layers=True)


@torch.no_grad()
@pytest.mark.parametrize("kind", [BertForMaskedLM, BertForPreTraining])
def test_the_language_model_head_is_copied(tmp_path, kind):
    bert = bert_folder(tmp_path, kind)
    med = build(parts="captioner")
    load_text_start(med, tmp_path)
    states = torch.randn(2, 5, 32)
    theirs = bert.cls.predictions(states)
    torch.testing.assert_close(med.lm_logits(states)[..., : len(ENTRIES)], theirs, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("sharing", ["all_but_sa", "none"])
def test_encoder_and_decoder_start_equal_and_other_tensors_are_unchanged(tmp_path, sharing):
    bert_folder(tmp_path, BertForMaskedLM)
    med, unchanged = build(sharing=sharing), build(sharing=sharing)
    load_text_start(med, tmp_path)
    encoder, decoder = med.text_encoder.state_dict(), med.text_decoder.bert.state_dict()
    text_only = [name for name in encoder if ".crossattention." not in name]
    assert all(torch.equal(encoder[name], decoder[name]) for name in text_only if "word" not in name)
    entries = len(ENTRIES)
    for part, old in ((encoder, unchanged.text_encoder), (decoder, unchanged.text_decoder.bert)):
        before = old.state_dict()
        for name in part:
            if ".crossattention." in name:
                assert torch.equal(part[name], before[name])
            elif "intermediate" in name:
                assert not torch.equal(part[name], before[name])
        word_table = "embeddings.word_embeddings.weight"
        assert torch.equal(part[word_table][entries:], before[word_table][entries:])
        assert not (part[word_table][:entries] == before[word_table][:entries]).any()
    assert torch.equal(med.vision_proj.weight, unchanged.vision_proj.weight)


@torch.no_grad()
def test_another_vocabulary_is_matched_by_entry(tmp_path):
    bert = bert_folder(tmp_path, BertModel)
    own = tmp_path / "own"
    own.mkdir()
    (own / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nzebra\ndog\nred\n")
    tokenizer = Tokenizer.from_folder(own)
    med = build(text=replace(TEXT, vocab_size=tokenizer.vocab_size), parts="filter")
    before = med.text_encoder.embeddings.word_embeddings.weight.clone()
    load_text_start(med, tmp_path, tokenizer)
    after, theirs = med.text_encoder.embeddings.word_embeddings.weight, bert.get_input_embeddings().weight
    for row, entry in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", None, "dog", "red", None, None]):
        expected = before[row] if entry is None else theirs[ENTRIES.index(entry)]
        assert torch.equal(after[row], expected), entry


def test_old_files_with_prefix_and_old_norm_names_load_equally(tmp_path):
    bert_folder(tmp_path, BertModel)
    plain = build(parts="filter")
    load_text_start(plain, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    old = {f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"): t for name, t in tensors.items()}
    old = {name.replace("LayerNorm.bias", "LayerNorm.beta"): tensor for name, tensor in old.items()}
    (tmp_path / "model.safetensors").unlink()
    torch.save(old, tmp_path / "pytorch_model.bin")
    prefixed = build(parts="filter")
    load_text_start(prefixed, tmp_path)
    first, second = plain.state_dict(), prefixed.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def break_tensors(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("sizes", "text", "message"),
    [
        ({"hidden_size": 64}, TEXT, "mis-shaped"),
        ({"num_hidden_layers": 3}, TEXT, "unexpected: encoder.layer.2"),
        ({"num_hidden_layers": 1}, TEXT, "missing: encoder.layer.1"),
        ({"num_attention_heads": 2}, TEXT, "2 attention heads, the model 4: set text.heads to 2"),
        (
            {"max_position_embeddings": 8},
            TEXT,
            "width 32 and 8 positions, the model width 32 and 12 positions: change text.width",
        ),
        ({}, replace(TEXT, vocab_size=9), "14 words, the model 9: pass the model's tokenizer"),
    ],
)
def test_a_bert_of_another_size_is_rejected(tmp_path, sizes, text, message):
    bert_folder(tmp_path, BertModel, **sizes)
    with pytest.raises(CheckpointError) as caught:
        load_text_start(build(text=text), tmp_path)
    assert message in str(caught.value)


def test_a_folder_without_bert_is_rejected(tmp_path):
    with pytest.raises(CheckpointError, match="neither model"):
        load_text_start(build(), tmp_path)
    bert_folder(tmp_path, BertModel)
    break_tensors(tmp_path, lambda tensors: tensors.pop("embeddings.word_embeddings.weight"))
    with pytest.raises(CheckpointError) as caught:
        load_text_start(build(), tmp_path)
    assert caught.value.missing == ["embeddings.word_embeddings.weight"]
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "bert"


def timm_vit(size=32, classes=10):
    torch.manual_seed(0)
    return timm.models.vision_transformer.VisionTransformer(
        img_size=size, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=classes
    ).eval()


@torch.no_grad()
def test_the_image_encoder_equals_timms(tmp_path):
    vit = timm_vit()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    med = build()
    load_vision_start(med, tmp_path / "vit.safetensors")
    pixels = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(med.encode_image(pixels), vit.forward_features(pixels), **CLOSE)


@torch.no_grad()
def test_positions_of_another_size_are_resampled(tmp_path):
    vit = timm_vit(size=64)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    med = build()
    load_vision_start(med, str(tmp_path / "vit.safetensors"))
    assert torch.equal(med.visual_encoder.pos_embed, interpolate_positions(vit.pos_embed, 17))
    assert torch.equal(med.visual_encoder.blocks[1].mlp.fc2.weight, vit.blocks[1].mlp.fc2.weight)


def test_a_model_name_is_loaded_by_timm(monkeypatch):
    """timm's download is replaced, because tests must not need a network."""
    vit, calls = timm_vit(), []

    def create(name, pretrained):
        calls.append((name, pretrained))
        return vit

    monkeypatch.setattr("capfilt.models.checkpoints.pretrained_start.timm.create_model", create)
    med = build()
    load_vision_start(med, "deit_base_patch16_224")
    assert calls == [("deit_base_patch16_224", True)]
    assert torch.equal(med.visual_encoder.norm.weight, vit.norm.weight)
    assert torch.equal(med.visual_encoder.cls_token, vit.cls_token)


def test_a_vit_that_does_not_match_is_rejected(tmp_path):
    vit = timm_vit()
    tensors = dict(vit.state_dict()) | {"dist_token": torch.zeros(1, 1, 24)}
    tensors["blocks.0.mlp.fc1.weight"] = torch.zeros(48, 24)
    del tensors["norm.bias"]
    save_file(tensors, tmp_path / "vit.safetensors")
    before = {name: tensor.clone() for name, tensor in build().state_dict().items()}
    med = build()
    with pytest.raises(CheckpointError) as caught:
        load_vision_start(med, tmp_path / "vit.safetensors")
    assert caught.value.missing == ["visual_encoder.norm.bias"]
    assert caught.value.unexpected == ["visual_encoder.dist_token"]
    assert caught.value.misshaped == ["visual_encoder.blocks.0.mlp.fc1.weight (48, 24), expected (96, 24)"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in med.state_dict().items())
    with pytest.raises(CheckpointError, match="neither a safetensors file nor the name of a timm model"):
        load_vision_start(med, "no_such_vit")
