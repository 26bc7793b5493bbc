"""Checkpoints in the format of transformers: exact round trips, and loading by transformers."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipForImageTextRetrieval, BlipProcessor

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.checkpoints.huggingface import rename_from_hf, rename_to_hf
from capfilt.models.checkpoints.load import export_checkpoint, load_checkpoint, save_checkpoint
from tests.models import blip_oracle
from tests.models.tiny_med import TOKENIZER, assert_same, build


@pytest.mark.parametrize("parts", ["captioner", "filter"])
def test_a_round_trip_through_transformers_is_exact(tmp_path, parts):
    med = build(parts=parts)
    save_checkpoint(tmp_path / "capfilt", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "capfilt", tmp_path / "hf", to="hf")
    export_checkpoint(tmp_path / "hf", tmp_path / "back", to="capfilt")
    back, tokenizer, info = load_checkpoint(tmp_path / "back", parts)
    assert_same(back, med)
    assert tokenizer.backend.to_str() == TOKENIZER.backend.to_str() and info.format == "capfilt"


def test_transformers_loads_an_exported_captioner(tmp_path):
    med = build(parts="captioner").eval()
    save_checkpoint(tmp_path / "capfilt", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "capfilt", tmp_path / "hf")
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


def test_transformers_loads_an_exported_filter_and_its_processor(tmp_path):
    med = build().eval()
    save_checkpoint(tmp_path / "capfilt", med, TOKENIZER, {})
    export_checkpoint(tmp_path / "capfilt", tmp_path / "hf", parts="filter")
    hf, report = BlipForImageTextRetrieval.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    processor = BlipProcessor.from_pretrained(tmp_path / "hf")
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    inputs = processor(images=image, text="a red dog", return_tensors="pt")
    ids, mask = TOKENIZER.encode(["a red dog"], 20)
    assert torch.equal(inputs["input_ids"], ids) and inputs["pixel_values"].shape == (1, 3, 32, 32)
    with torch.no_grad():
        kv = med.cross_kv(med.encode_image(inputs["pixel_values"]), "encoder")
        theirs = hf.eval()(pixel_values=inputs["pixel_values"], input_ids=ids, attention_mask=mask).itm_score
        torch.testing.assert_close(theirs, med.match(ids, mask, kv), atol=1e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "hf").convert_tokens_to_ids("[ENC]") == TOKENIZER.enc_id


@pytest.mark.parametrize("parts", ["captioner", "filter"])
def test_folders_written_by_transformers_load(tmp_path, parts):
    hf = (blip_oracle.hf_captioner if parts == "captioner" else blip_oracle.hf_matcher)(TOKENIZER)
    hf.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    med, _, info = load_checkpoint(tmp_path, parts)
    expected = blip_oracle.med_of(hf).state_dict()
    assert info.format == "hf" and info.parts == parts
    assert all(torch.equal(tensor, expected[name]) for name, tensor in med.state_dict().items())
    assert [("temperature" in note) for note in info.notes] == [True] * (parts == "filter")
    assert med.config.text.heads == 4 and med.config.text.dropout == 0.1


def test_a_replaced_epsilon_is_noted(tmp_path):
    hf = blip_oracle.hf_captioner(TOKENIZER)
    hf.config.vision_config.layer_norm_eps = 1e-5
    hf.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    assert load_checkpoint(tmp_path, "captioner")[2].notes == [
        "the file has vision layer_norm_eps 1e-05; using BLIP's 1e-06"
    ]


def test_an_untied_language_model_head_is_rejected(tmp_path):
    hf = blip_oracle.hf_captioner(TOKENIZER)
    hf.save_pretrained(tmp_path)
    TOKENIZER.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    word_table = "text_decoder.bert.embeddings.word_embeddings.weight"
    tensors["text_decoder.cls.predictions.decoder.weight"] = tensors[word_table] + 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"predictions\.decoder\.weight and .*word_embeddings"):
        load_checkpoint(tmp_path, "captioner")


def test_tensor_names_convert_both_ways():
    pairs = {
        "visual_encoder.cls_token": "vision_model.embeddings.class_embedding",
        "visual_encoder.blocks.11.norm2.bias": "vision_model.encoder.layers.11.layer_norm2.bias",
        "visual_encoder.blocks.0.attn.proj.bias": "vision_model.encoder.layers.0.self_attn.projection.bias",
        "visual_encoder.norm.weight": "vision_model.post_layernorm.weight",
        "text_decoder.cls.predictions.bias": "text_decoder.cls.predictions.bias",
    }
    assert {name: rename_to_hf(name) for name in pairs} == pairs
    assert {rename_from_hf(hf_name): hf_name for hf_name in pairs.values()} == pairs
