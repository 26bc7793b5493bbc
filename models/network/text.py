"""BERT with cross-attention to image tokens: the text half of MED.

BLIP paper (arXiv 2201.12086), section 3.1 and figure 2. A layer is self-attention, cross-attention and
feed-forward, each followed by residual and norm (post-norm, as in BERT). The same layer serves three modes:
text only (no image, cross-attention skipped), image-grounded encoder, and image-grounded decoder (causal).
Module names are BERT's, so tensors of BLIP and transformers load by name.

What a text attends to is an input: image states, or their keys and values, which `MED.cross_kv` computes once
per image and layer. The class of the cross-attention is a parameter: the one below, or the one for two images
in `models/network/two_images.py`.

Shape suffixes: B images, M texts (M = B if each image has one), T tokens of a text, S cached + new tokens,
N image tokens, D text width, W image width, H heads, K channels per head, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.config import TextConfig
from capfilt.models.network.attention import CrossInputs, DecoderCache, ImageRows


class Projections(nn.Module):
    """Query, key and value projections; `source_width` is the width of the tokens attended to."""

    def __init__(self, config: TextConfig, source_width: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(source_width, config.width)
        self.value = nn.Linear(source_width, config.width)

    def queries(self, x_MTD: Tensor) -> Tensor:
        """[M, T, H, K]."""
        return self.query(x_MTD).unflatten(-1, (self.heads, -1))

    def keys_values(self, source_BNW: Tensor) -> tuple[Tensor, Tensor]:
        """Both [B, H, N, K]."""
        key_BNHK = self.key(source_BNW).unflatten(-1, (self.heads, -1))
        value_BNHK = self.value(source_BNW).unflatten(-1, (self.heads, -1))
        return key_BNHK.transpose(1, 2), value_BNHK.transpose(1, 2)

    def attend_to_states(self, x_MTD: Tensor, states_BNW: Tensor, rows: ImageRows) -> Tensor:
        """Attention to states whose keys and values are not computed, [M, T, H, K].

        The score of query q and state s, q (A s + b), is (q A) s and a constant that softmax ignores: so the
        queries are projected instead of the states. As weights add up to 1, the mean of the values is the
        value of the mean state. DeepSeek-V2 (arXiv 2405.04434, section 2.1.2) calls this absorption.
        """
        key_HKW = self.key.weight.unflatten(0, (self.heads, -1))
        value_HKW = self.value.weight.unflatten(0, (self.heads, -1))
        query_MTHW = torch.einsum("mthk,hkw->mthw", self.queries(x_MTD), key_HKW)
        query_MTHW = query_MTHW * math.sqrt(
            key_HKW.shape[2] / key_HKW.shape[1]
        )  # attention divides by sqrt(W)
        states_B1NW = states_BNW[:, None]  # one head, for which the heads of a token are several tokens
        mean = rows.attend(query_MTHW.flatten(1, 2)[:, :, None], states_B1NW, states_B1NW, dropout=0.0)
        mean_MTHW = mean.view_as(query_MTHW)
        value_MTHK = torch.einsum("mthw,hkw->mthk", mean_MTHW, value_HKW)
        return value_MTHK + self.value.bias.unflatten(0, (self.heads, -1))


class ResidualNorm(nn.Module):
    """The end of every BERT sub-layer: projection, dropout, residual, norm."""

    def __init__(self, config: TextConfig, width_in: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, residual_MTD: Tensor) -> Tensor:
        """[M, T, D]."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual_MTD)


class SelfAttention(nn.Module):
    """Self-attention of texts."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention_dropout = config.dropout
        self.self = Projections(config, config.width)
        self.output = ResidualNorm(config, config.width)

    def forward(self, x_MTD: Tensor, inputs: TextInputs, layer: int) -> Tensor:
        """[M, T, D]."""
        query_MHTK = self.self.queries(x_MTD).transpose(1, 2)
        key, value = self.self.keys_values(x_MTD)
        if inputs.cache is not None:
            key, value = inputs.cache.append(layer, key, value)
        out_MHTK = F.scaled_dot_product_attention(
            query_MHTK,
            key,
            value,
            attn_mask=inputs.mask_M1TS,
            is_causal=inputs.causal,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return self.output(out_MHTK.transpose(1, 2).flatten(2), x_MTD)


class CrossAttention(nn.Module):
    """Attention of texts to image tokens."""

    def __init__(self, config: TextConfig, image_width: int, layer: int) -> None:
        super().__init__()  # `layer` is unused: all layers are alike
        self.attention_dropout = config.dropout
        self.self = Projections(config, image_width)
        self.output = ResidualNorm(config, config.width)

    def keys_values(self, source_BNW: Tensor) -> tuple[Tensor, Tensor]:
        """One layer's entry of a CrossKV, both [B, H, N, K]."""
        return self.self.keys_values(source_BNW)

    def forward(self, x_MTD: Tensor, source: tuple[Tensor, ...], rows: ImageRows) -> Tensor:
        """[M, T, D]; `source` is a layer's entry of a CrossKV or of CrossStates."""
        if len(source) == 1:
            out_MTHK = self.self.attend_to_states(x_MTD, source[0], rows)
        else:
            dropout = self.attention_dropout if self.training else 0.0
            key_BHNK, value_BHNK = source
            out_MTHK = rows.attend(self.self.queries(x_MTD), key_BHNK, value_BHNK, dropout)
        return self.output(out_MTHK.flatten(2), x_MTD)


CrossBuilder = Callable[[TextConfig, int, int], nn.Module]
"""Builds the cross-attention of a layer from the text config, the width of the source tokens, the layer
number."""


class Intermediate(nn.Module):
    """First half of the feed-forward network."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.ffn)

    def forward(self, x_MTD: Tensor) -> Tensor:
        """[M, T, ffn]."""
        return F.gelu(self.dense(x_MTD))


@dataclass(frozen=True, kw_only=True)
class TextInputs:
    """What the tokens of one forward pass attend to."""

    mask_M1TS: Tensor | None = None
    """True where a token may attend; None: everywhere (with `causal`: to itself and previous tokens)."""
    causal: bool = False
    cache: DecoderCache | None = None
    cross: CrossInputs | None = None
    """What the cross-attention of each layer attends to: a CrossKV, CrossStates, or an ImagePairKV of
    `models/network/two_images.py`. None: text only, cross-attention is skipped."""
    rows: ImageRows | None = None
    """The image of each text; required with `cross`."""


class Layer(nn.Module):
    """One transformer layer: self-attention, cross-attention (if an image is given), feed-forward."""

    def __init__(self, config: TextConfig, image_width: int, layer: int, cross: CrossBuilder) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.crossattention = cross(config, image_width, layer)
        self.intermediate = Intermediate(config)
        self.output = ResidualNorm(config, config.ffn)

    def forward(self, x_MTD: Tensor, inputs: TextInputs, layer: int) -> Tensor:
        """[M, T, D]."""
        x_MTD = self.attention(x_MTD, inputs, layer)
        if inputs.cross is not None:
            assert inputs.rows is not None
            x_MTD = self.crossattention(x_MTD, inputs.cross[layer], inputs.rows)
        return self.output(self.intermediate(x_MTD), x_MTD)


class Embeddings(nn.Module):
    """Word and position embeddings, normed. BLIP's text has no token types."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width)
        self.position_embeddings = nn.Embedding(config.max_positions, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_MT: Tensor, start: int) -> Tensor:
        """[M, T, D]; the first token has position `start`. Raises ValueError beyond the last position."""
        stop, positions = start + ids_MT.shape[1], self.position_embeddings.num_embeddings
        if stop > positions:
            raise ValueError(
                f"the text has {stop} tokens, but the model {positions} positions: shorten the text"
            )
        x_MTD = self.word_embeddings(ids_MT) + self.position_embeddings.weight[start:stop]
        return self.dropout(self.LayerNorm(x_MTD))


class TextTransformer(nn.Module):
    """Embeddings and layers; `TextInputs` determines the mode."""

    def __init__(self, config: TextConfig, image_width: int, cross: CrossBuilder = CrossAttention) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config, image_width, i, cross) for i in range(config.depth))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.apply(partial(init_text_weights, std=config.init_std))

    @property
    def layers(self) -> list[Layer]:
        """The layers in order."""
        return [cast(Layer, layer) for layer in cast(nn.ModuleList, self.encoder["layer"])]

    def forward(self, ids_MT: Tensor, inputs: TextInputs) -> Tensor:
        """States after the last layer, [M, T, D]."""
        x_MTD = self.embeddings(ids_MT, inputs.cache.length if inputs.cache is not None else 0)
        for i, layer in enumerate(self.layers):
            x_MTD = layer(x_MTD, inputs, i)
        return x_MTD


class Transform(nn.Module):
    """The dense layer of BERT before the vocabulary projection."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D]."""
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """The language-model head. Its matrix is the word embedding table; its bias has two names, as in BERT."""

    def __init__(self, config: TextConfig, words: nn.Embedding) -> None:
        super().__init__()
        self.transform = Transform(config)
        self.decoder = nn.Linear(config.width, config.vocab_size)
        self.decoder.weight = words.weight
        self.bias = self.decoder.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., V]."""
        return self.decoder(self.transform(x))


class TextDecoder(nn.Module):
    """A text transformer with a language-model head (`bert` and `cls.predictions` in BLIP's checkpoints)."""

    def __init__(self, config: TextConfig, image_width: int) -> None:
        super().__init__()
        self.bert = TextTransformer(config, image_width)
        self.cls = nn.ModuleDict({"predictions": Predictions(config, self.bert.embeddings.word_embeddings)})
        self.cls.apply(partial(init_text_weights, std=config.init_std))

    @property
    def head(self) -> Predictions:
        """The language-model head."""
        return cast(Predictions, self.cls["predictions"])


def init_text_weights(module: nn.Module, std: float) -> None:
    """BERT's initialization: normal weights, zero biases. Norms keep torch's initialization, the identity."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
