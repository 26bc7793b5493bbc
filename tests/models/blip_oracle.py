"""Tiny BLIPs of transformers with random weights, and MEDs with the same weights.

The implementation of transformers shares no code with ours, so its results are the expected ones in these
tests.
"""

import re

import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)

from capfilt.models.config import MedConfig, TextConfig, VisionConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer

SIZE = 32
PARTS = {
    BlipForConditionalGeneration: "captioner",
    BlipForImageTextRetrieval: "filter",
    BlipForQuestionAnswering: "vqa",
}
WORDS = "a picture of the red blue green small large dog cat bird tree house car boat on in under near two"

# Tensor names of transformers -> those of salesforce/BLIP, which MED has too.
_RENAME = [
    (r"^vision_model\.embeddings\.class_embedding$", "visual_encoder.cls_token"),
    (r"^vision_model\.embeddings\.position_embedding$", "visual_encoder.pos_embed"),
    (r"^vision_model\.embeddings\.patch_embedding\.", "visual_encoder.patch_embed.proj."),
    (r"^vision_model\.post_layernorm\.", "visual_encoder.norm."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.layer_norm(\d)\.", r"visual_encoder.blocks.\1.norm\2."),
    (r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.qkv\.", r"visual_encoder.blocks.\1.attn.qkv."),
    (
        r"^vision_model\.encoder\.layers\.(\d+)\.self_attn\.projection\.",
        r"visual_encoder.blocks.\1.attn.proj.",
    ),
    (r"^vision_model\.encoder\.layers\.(\d+)\.mlp\.", r"visual_encoder.blocks.\1.mlp."),
]


def tiny_tokenizer() -> Tokenizer:
    return Tokenizer.train([WORDS] * 3, vocab_size=200)


def hf_config(tokenizer: Tokenizer) -> BlipConfig:
    text = {
        "vocab_size": tokenizer.vocab_size,
        "hidden_size": 32,
        "encoder_hidden_size": 48,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 48,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "bos_token_id": tokenizer.dec_id,
        "sep_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }
    vision = {
        "image_size": SIZE,
        "patch_size": 8,
        "hidden_size": 48,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "layer_norm_eps": 1e-6,
    }
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=16)


def vqa_config(tokenizer: Tokenizer) -> BlipConfig:
    """Text and image have the same width, as question answering in transformers requires."""
    config = hf_config(tokenizer)
    config.text_config.encoder_hidden_size = config.vision_config.hidden_size = 32
    config.vision_config.intermediate_size = 128
    return config


def hf_answerer(tokenizer: Tokenizer, seed: int = 0, ends: float = 3.0) -> BlipForQuestionAnswering:
    """A model whose answers differ between questions; the higher `ends`, the shorter they are."""
    model = _random_weights(BlipForQuestionAnswering, vqa_config(tokenizer), seed)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[tokenizer.sep_id] += ends
    return model


def hf_captioner(tokenizer: Tokenizer, seed: int = 0, ends: float = 3.0) -> BlipForConditionalGeneration:
    """A model whose captions differ between images; the higher `ends`, the shorter they are."""
    model = _random_weights(BlipForConditionalGeneration, hf_config(tokenizer), seed)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[tokenizer.sep_id] += ends
    return model


def hf_matcher(tokenizer: Tokenizer, seed: int = 0) -> BlipForImageTextRetrieval:
    return _random_weights(BlipForImageTextRetrieval, hf_config(tokenizer), seed)


def _random_weights(kind, config, seed):
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = kind(config)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape)
            # Large enough that images and tokens matter; norms and biases differ from 1 and 0 too.
            parameter.add_(noise * 0.3 if parameter.dim() > 1 else noise * 0.1)
    return model.eval()


def med_of(hf) -> MED:
    """A MED with the same weights."""
    text, vision = hf.config.text_config, hf.config.vision_config
    med = MED(
        MedConfig(
            vision=VisionConfig(
                image_size=vision.image_size,
                patch_size=vision.patch_size,
                width=vision.hidden_size,
                depth=vision.num_hidden_layers,
                heads=vision.num_attention_heads,
                mlp_ratio=vision.intermediate_size / vision.hidden_size,
            ),
            text=TextConfig(
                vocab_size=text.vocab_size,
                width=text.hidden_size,
                depth=text.num_hidden_layers,
                heads=text.num_attention_heads,
                ffn=text.intermediate_size,
                max_positions=text.max_position_embeddings,
            ),
            embed_dim=hf.config.image_text_hidden_size,
            parts=PARTS[type(hf)],
        )
    )
    weights = {}
    for name, tensor in hf.state_dict().items():
        for pattern, ours in _RENAME:
            name = re.sub(pattern, ours, name)
        weights[name] = tensor
    missing, unexpected = med.load_state_dict(weights, strict=False)
    assert set(missing) <= {"temp"} and all(name.endswith("position_ids") for name in unexpected), (
        missing,
        unexpected,
    )
    return med.eval()


def random_pixels(images: int, seed: int = 0) -> torch.Tensor:
    """Pixels uint8 [B, 3, SIZE, SIZE] of random colors with noise, so that images differ strongly."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randint(0, 256, (images, 3, 1, 1), generator=generator).float()
    noise = torch.randn(images, 3, SIZE, SIZE, generator=generator) * 60
    return (flat + noise).clamp(0, 255).to(torch.uint8)
