"""Tiny BLIP checkpoints with random weights, in transformers' format, in place of the released ones.

They load and run in milliseconds. Their captions and scores mean nothing.
"""

from pathlib import Path

import torch
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    BlipForQuestionAnswering,
)

from capfilt.models.network.tokenizer import Tokenizer

WORDS = "a picture of one large small red green blue yellow circle square star ring on next to and"


def save_tiny_blip(folder: str | Path, image_size: int = 32) -> tuple[str, str, str]:
    """Write a captioner, a filter and a model that answers questions below `folder`.

    Returns:
        The folders of the three.
    """
    tokenizer = Tokenizer.train([WORDS], vocab_size=200)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    tokens = {
        "vocab_size": tokenizer.vocab_size,
        "bos_token_id": tokenizer.dec_id,
        "sep_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }
    config = BlipConfig(
        text_config={**size, **tokens, "encoder_hidden_size": 32, "max_position_embeddings": 64},
        vision_config={**size, "image_size": image_size, "patch_size": 8, "layer_norm_eps": 1e-6},
        image_text_hidden_size=16,
    )
    models = {
        "captioner": BlipForConditionalGeneration,
        "filter": BlipForImageTextRetrieval,
        "answerer": BlipForQuestionAnswering,
    }
    for name, model_class in models.items():
        torch.manual_seed(0)
        model = model_class(config)
        with torch.no_grad():  # wide enough that texts and scores differ between images
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
        model.save_pretrained(Path(folder) / name)
        tokenizer.save(Path(folder) / name)
    captioner, filter_, answerer = (str(Path(folder) / name) for name in models)
    return captioner, filter_, answerer
