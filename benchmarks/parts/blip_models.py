"""BLIP models with random weights, to compare capfilt, the BLIP of transformers and a bare image encoder.

The logits of the language model are scaled so that the nucleus has tens of tokens, and its end token is made
likely enough that captions have about `CAPTION_TOKENS` tokens.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import BlipConfig, BlipForConditionalGeneration

from capfilt.models.network.tokenizer import Tokenizer

CAPTION_TOKENS = 8
LOGIT_STD = 4.0
INIT_STD = 0.02  # of the word embeddings of transformers
BERT_ENTRIES = 30522


@dataclass(frozen=True, kw_only=True)
class Size:
    """Width, depth and heads of image encoder and text transformer."""

    vision: tuple[int, int, int]
    text: tuple[int, int, int]


SIZES = {
    "tiny": Size(vision=(64, 2, 4), text=(64, 2, 4)),
    "base": Size(vision=(768, 12, 12), text=(768, 12, 12)),
    "large": Size(vision=(1024, 24, 16), text=(768, 12, 12)),
}


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Size, device and precision of all sides."""

    size: str
    image_size: int
    device: str
    precision: str


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Command line options of `ModelOptions`, `--batch-size`, `--repeats` and `--threads`."""
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--image-size", type=int, default=384, help="pixels per side (paper: 384)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--repeats", type=int, default=5, help="alternating runs of all sides")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")


def model_options(options: argparse.Namespace) -> ModelOptions:
    """The parsed options; sets torch's threads."""
    if options.threads:
        torch.set_num_threads(options.threads)
    names = ("size", "image_size", "device", "precision")
    return ModelOptions(**{name: getattr(options, name) for name in names})


def build_model(kind: Any, model: ModelOptions, folder: Path) -> tuple[Any, Tokenizer]:
    """A model of transformers with random weights, saved to `folder` with a synthetic vocabulary of BERT's
    size.

    Args:
        kind: a class of BLIP in transformers.
    """
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"]
    entries += [f"w{i}" for i in range(BERT_ENTRIES - len(entries))]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    tokenizer = Tokenizer.from_folder(folder)
    hf = kind(make_config(SIZES[model.size], model.image_size, tokenizer))
    if kind is BlipForConditionalGeneration:
        scale_logits(hf.text_decoder, tokenizer.sep_id)
    hf.save_pretrained(folder)
    tokenizer.save(folder)
    return hf.to(model.device, getattr(torch, model.precision)).eval(), tokenizer


@torch.no_grad()
def scale_logits(decoder: Any, end_id: int) -> None:
    """Scale random logits to a standard deviation of LOGIT_STD, and make the end token 1 / CAPTION_TOKENS
    likely."""
    head, words = decoder.cls.predictions, decoder.bert.embeddings.word_embeddings.weight
    head.transform.LayerNorm.weight.fill_(LOGIT_STD / (INIT_STD * words.shape[1] ** 0.5))
    words[end_id] = 0  # so that its logit equals its bias for every image
    log_total = math.log(BERT_ENTRIES) + LOGIT_STD**2 / 2  # of the exponentials of a normal distribution
    head.bias[end_id] = log_total - math.log(CAPTION_TOKENS)


def make_config(size: Size, image_size: int, tokenizer: Tokenizer) -> BlipConfig:
    """The config of BLIP for a size; epsilon and heads of BLIP differ from the defaults of transformers."""

    def transformer(width: int, depth: int, heads: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
        }

    text = transformer(*size.text) | {
        "vocab_size": tokenizer.vocab_size,
        "encoder_hidden_size": size.vision[0],
        "bos_token_id": tokenizer.dec_id,
        "sep_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }
    vision = transformer(*size.vision) | {
        "image_size": image_size,
        "layer_norm_eps": 1e-6,
        "initializer_range": INIT_STD,
    }
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=256)
