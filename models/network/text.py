"""BERT with cross-attention to image tokens: the text half of MED (BLIP, arXiv 2201.12086, section 3.1 and
figure 2).

A layer is self-attention, cross-attention, feed-forward, each followed by residual and norm (post-norm, as in
BERT). The same layer serves three modes: text alone (no image given, cross-attention skipped), image-grounded
encoder, image-grounded decoder (causal). Module names are BERT's, so BLIP's and transformers' tensors fit by
name.

Keys and values of the image are inputs here, not computed: MED.cross_kv makes them once per image and layer.
A layer's cross-attention is given to it: the one below, or that over two images of models/network/two_images.py.

Shape suffixes: B images, M texts (M = B when each image has one), T tokens of a text, S cached + new tokens,
N image tokens, D text width, W image width, H heads, K channels per head, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.config import TextConfig
from capfilt.models.network.attention import DecoderCache, ImageRows


class Projections(nn.Module):
    """Query, key and value of one attention; `source_width` is that of the tokens attended to."""

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


class ResidualNorm(nn.Module):
    """Projection, dropout, residual, norm: how every BERT sub-layer ends."""

    def __init__(self, config: TextConfig, width_in: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width_in, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, residual_MTD: Tensor) -> Tensor:
        """[M, T, D]."""
        return self.LayerNorm(self.dropout(self.dense(x)) + residual_MTD)


class SelfAttention(nn.Module):
    """Text attends to itself."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention_dropout = config.dropout
        self.self = Projections(config, config.width)
        self.output = ResidualNorm(config, config.width)

    def forward(self, x_MTD: Tensor, reads: "TextReads", layer: int) -> Tensor:
        """[M, T, D]."""
        query_MHTK = self.self.queries(x_MTD).transpose(1, 2)
        key, value = self.self.keys_values(x_MTD)
        if reads.cache is not None:
            key, value = reads.cache.append(layer, key, value)
        out_MHTK = F.scaled_dot_product_attention(
            query_MHTK,
            key,
            value,
            attn_mask=reads.mask_M1TS,
            is_causal=reads.causal,
            dropout_p=self.attention_dropout if self.training else 0.0,
        )
        return self.output(out_MHTK.transpose(1, 2).flatten(2), x_MTD)


class CrossAttention(nn.Module):
    """Text attends to image tokens whose keys and values are already there."""

    def __init__(self, config: TextConfig, image_width: int, layer: int) -> None:
        super().__init__()  # every layer's is alike, whatever its number
        self.attention_dropout = config.dropout
        self.self = Projections(config, image_width)
        self.output = ResidualNorm(config, config.width)

    def keys_values(self, source_BNW: Tensor) -> tuple[Tensor, Tensor]:
        """One layer's entry of a CrossKV, both [B, H, N, K]."""
        return self.self.keys_values(source_BNW)

    def forward(self, x_MTD: Tensor, key_BHNK: Tensor, value_BHNK: Tensor, rows: ImageRows) -> Tensor:
        """[M, T, D]."""
        dropout = self.attention_dropout if self.training else 0.0
        out_MTHK = rows.attend(self.self.queries(x_MTD), key_BHNK, value_BHNK, dropout)
        return self.output(out_MTHK.flatten(2), x_MTD)


CrossBuilder = Callable[[TextConfig, int, int], nn.Module]
"""Makes one layer's cross-attention from the text's sizes, the width of what is read, the layer's number."""


class Intermediate(nn.Module):
    """First half of the feed-forward."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.ffn)

    def forward(self, x_MTD: Tensor) -> Tensor:
        """[M, T, ffn]."""
        return F.gelu(self.dense(x_MTD))


@dataclass(frozen=True, kw_only=True)
class TextReads:
    """What the tokens of one forward pass may look at."""

    mask_M1TS: Tensor | None = None
    """True where a token may attend; None for everywhere (or, with `causal`, everywhere before)."""
    causal: bool = False
    cache: DecoderCache | None = None
    cross: Sequence[tuple[Tensor, ...]] | None = None
    """Per layer what its cross-attention takes after the text: a CrossKV, or a TwinKV (models/network/two_images.py). None:
    text alone, cross-attention is skipped."""
    rows: ImageRows | None = None
    """Set whenever `cross` is."""


class Layer(nn.Module):
    """One transformer layer: self-attention, cross-attention (when an image is given), feed-forward."""

    def __init__(self, config: TextConfig, image_width: int, layer: int, cross: CrossBuilder) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.crossattention = cross(config, image_width, layer)
        self.intermediate = Intermediate(config)
        self.output = ResidualNorm(config, config.ffn)

    def forward(self, x_MTD: Tensor, reads: TextReads, layer: int) -> Tensor:
        """[M, T, D]."""
        x_MTD = self.attention(x_MTD, reads, layer)
        if reads.cross is not None:
            assert reads.rows is not None
            x_MTD = self.crossattention(x_MTD, *reads.cross[layer], reads.rows)
        return self.output(self.intermediate(x_MTD), x_MTD)


class Embeddings(nn.Module):
    """Word plus position, normed. BLIP's text has no token types."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.width)
        self.position_embeddings = nn.Embedding(config.max_positions, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids_MT: Tensor, start: int) -> Tensor:
        """[M, T, D]; the first token stands at position `start`. ValueError past the last position."""
        stop, positions = (start + ids_MT.shape[1], self.position_embeddings.num_embeddings)
        if stop > positions:
            raise ValueError(
                f"text of {stop} tokens, but the model has {positions} positions: shorten the text"
            )
        x_MTD = self.word_embeddings(ids_MT) + self.position_embeddings.weight[start:stop]
        return self.dropout(self.LayerNorm(x_MTD))


class TextTransformer(nn.Module):
    """Embeddings and layers; which mode it runs in is said by `TextReads`."""

    def __init__(self, config: TextConfig, image_width: int, cross: CrossBuilder = CrossAttention) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        layers = nn.ModuleList(Layer(config, image_width, i, cross) for i in range(config.depth))
        self.encoder = nn.ModuleDict({"layer": layers})
        self.apply(partial(init_text_weights, std=config.init_std))

    @property
    def layers(self) -> list[Layer]:
        """The layers, first to last."""
        return [cast(Layer, layer) for layer in cast(nn.ModuleList, self.encoder["layer"])]

    def forward(self, ids_MT: Tensor, reads: TextReads) -> Tensor:
        """States after the last layer, [M, T, D]."""
        x_MTD = self.embeddings(ids_MT, reads.cache.length if reads.cache is not None else 0)
        for i, layer in enumerate(self.layers):
            x_MTD = layer(x_MTD, reads, i)
        return x_MTD


class Transform(nn.Module):
    """BERT's dense layer before the vocabulary projection."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.LayerNorm = nn.LayerNorm(config.width, eps=config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D]."""
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """The language-model head: its matrix is the word embedding table, its bias has two names as in BERT."""

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
    """A text transformer with a language-model head (`bert` and `cls.predictions` in BLIP's files)."""

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
    """BERT's initialisation: normal matrices of one spread, zero biases (norms are born as identity)."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
