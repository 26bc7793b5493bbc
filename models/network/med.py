"""MED, the multimodal mixture of encoder-decoder of BLIP (arXiv 2201.12086, section 3.1).

One image encoder, and a text transformer that acts as text encoder (ITC), image-grounded encoder (ITM) and
image-grounded decoder (LM). Encoder and decoder share the parameters of Table 3 of the paper. To answer
questions, the decoder attends to the states of the encoder instead of the image; to judge a pair of images,
the encoder attends to both (figure 5). State-dict names are those of salesforce/BLIP, so its checkpoints load
by name.

Shape suffixes: those of `models/network/text.py`; E is the dimension of the joint embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.config import MedConfig, Parts, Sharing
from capfilt.models.network.attention import (
    CrossInputs,
    CrossKV,
    CrossStates,
    DecoderCache,
    ImageRows,
    decoder_mask,
    fewest_operations,
)
from capfilt.models.network.text import CrossAttention, TextDecoder, TextInputs, TextTransformer
from capfilt.models.network.two_images import ImagePairCrossAttention, ImagePairKV
from capfilt.models.network.vit import build_vit

INITIAL_TEMPERATURE = 0.07  # salesforce/BLIP models/blip_pretrain.py, as in CLIP and ALBEF

# Table 3: the modules of a layer that encoder and decoder share. Unless "none", they share the embeddings
# too.
SHARED_MODULES: dict[Sharing, tuple[str, ...]] = {
    "all": ("attention", "crossattention", "intermediate", "output"),
    "all_but_ca": ("attention", "intermediate", "output"),
    "all_but_sa": ("crossattention", "intermediate", "output"),
    "none": (),
}


@dataclass(frozen=True, kw_only=True)
class Questions:
    """Q questions that the decoder of a "vqa" attends to."""

    kv: CrossInputs
    """`MED.cross_kv` of the decoder for the question states; questions open with [ENC]."""
    mask_QN: Tensor | None
    """The mask that the questions were encoded with; None if there is no padding."""


class MED(nn.Module):
    """The model. `encode_image` encodes images once; the other methods take its result."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.config = config
        text, image_width = config.text, config.vision.width
        self.visual_encoder = build_vit(config.vision)
        if config.parts == "nlvr":
            self.text_encoder = TextTransformer(text, image_width, ImagePairCrossAttention)
            self.cls_head = nn.Sequential(
                nn.Linear(text.width, text.width), nn.ReLU(), nn.Linear(text.width, 2)
            )
        elif config.parts != "captioner":
            self.text_encoder = TextTransformer(text, image_width)
        if self.has_encoder:
            self.vision_proj = nn.Linear(image_width, config.embed_dim)
            self.text_proj = nn.Linear(text.width, config.embed_dim)
            self.itm_head = nn.Linear(text.width, 2)
            self.temp = nn.Parameter(torch.tensor(INITIAL_TEMPERATURE))
        if config.parts == "vqa":
            self.text_decoder = TextDecoder(text, text.width)
        elif self.has_decoder:
            self.text_decoder = TextDecoder(text, image_width)
        if self.has_encoder and self.has_decoder:
            self._share_parameters()

    @property
    def has_encoder(self) -> bool:
        """Whether the model has a text encoder with the heads of ITC and ITM."""
        return self.config.parts in ("pretrain", "filter")

    @property
    def has_decoder(self) -> bool:
        """Whether the model has a decoder that attends to images."""
        return self.config.parts in ("pretrain", "captioner")

    @property
    def shares_cross_kv(self) -> bool:
        """Whether encoder and decoder share cross-attention, so that one `cross_kv` serves both."""
        both = self.has_encoder and self.has_decoder
        return both and "crossattention" in SHARED_MODULES[self.config.sharing]

    def _share_parameters(self) -> None:
        if self.config.sharing == "none":
            return
        encoder, decoder = self.text_encoder, self.text_decoder
        decoder.bert.embeddings = encoder.embeddings
        decoder.head.decoder.weight = encoder.embeddings.word_embeddings.weight
        for decoder_layer, encoder_layer in zip(decoder.bert.layers, encoder.layers, strict=True):
            for module in SHARED_MODULES[self.config.sharing]:
                setattr(decoder_layer, module, getattr(encoder_layer, module))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Image tokens [B, N, W] after the final norm, CLS first.

        A video is the tokens of its frames, one after the other: [B, F * N, W] (paper, section 5.6). Every
        other method takes them as those of an image.

        Args:
            pixels: normalized floats [B, 3, S, S] (`models.images.pixels.normalize`), of videos [B, F, 3, S,
                S].

        Raises:
            ValueError: the pixels are uint8 or have another size.
        """
        side = self.config.vision.image_size
        if pixels.ndim == 5:
            return self.encode_image(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2]).flatten(1, 2)
        if pixels.dtype == torch.uint8 or pixels.shape[1:] != (3, side, side):
            raise ValueError(
                f"encode_image got {pixels.dtype} pixels {tuple(pixels.shape)}: "
                f"expected normalized floats (B, 3, {side}, {side})"
            )
        return self.visual_encoder.forward_features(pixels)

    def image_feature(self, image_states: Tensor) -> Tensor:
        """ITC features of images, from CLS: [B, E], of unit length. Those of a video are from the mean over
        its frames, as in the reference."""
        self._require_parts("image_feature", "pretrain", "filter")
        tokens = self.visual_encoder.pos_embed.shape[1]
        if image_states.shape[1] == tokens:
            return F.normalize(self.vision_proj(image_states[:, 0]).float(), dim=-1)
        return F.normalize(self.vision_proj(image_states[:, ::tokens]).float().mean(dim=1), dim=-1)

    def text_feature(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """ITC features of texts: [M, E], of unit length. `ids` [M, T] open with [CLS]; mask as in `match`."""
        self._require_parts("text_feature", "pretrain", "filter")
        return F.normalize(self.text_proj(self.text_states(ids, mask)[:, 0]).float(), dim=-1)

    def text_states(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """States [M, T, D] of texts alone, which attend to no image; the arguments are those of
        `text_feature`."""
        self._require_parts("text_states", "pretrain", "filter")
        return self.text_encoder(ids, TextInputs(mask_M1TS=_padding_mask(mask)))

    def cross_kv(self, image_states: Tensor, which: Literal["encoder", "decoder"]) -> CrossKV:
        """Cross-attention keys and values of images [B, N, W] for every layer, each [B, H, N, K].

        If `shares_cross_kv`, both values of `which` give the same result. The decoder of a "vqa" attends to
        questions instead of images: pass the states [Q, T, D] from `encode_text`.
        """
        if which == "encoder":
            self._require_parts("cross_kv of the encoder", "pretrain", "filter", "vqa")
        else:
            self._require_parts("cross_kv of the decoder", "pretrain", "captioner", "vqa")
        text = self.text_encoder if which == "encoder" else self.text_decoder.bert
        return _keys_values(text, image_states)

    def cross_states(self, image_states: Tensor) -> CrossStates:
        """In place of `cross_kv` in `match` and `decode`: the texts attend to the image states themselves.

        The results are those of `cross_kv` but for rounding. Raises ValueError in training mode, since
        dropout of attention weights would not be the same.
        """
        if self.training:
            raise ValueError("cross_states is for inference, but the model is in training mode: use cross_kv")
        return [(image_states,)] * self.config.text.depth

    def cross_inputs(
        self, image_states: Tensor, which: Literal["encoder", "decoder"], tokens: float
    ) -> CrossInputs:
        """`cross_states` or `cross_kv`, whichever takes less work for so many text tokens per image."""
        text = self.config.text
        # On a GPU, attention in heads as wide as a state has no fast kernel.
        by_states = fewest_operations(image_states.shape, text.width, text.heads, tokens) == "states"
        if by_states and image_states.device.type == "cpu":
            return self.cross_states(image_states)
        return self.cross_kv(image_states, which)

    def encode_text(
        self,
        ids: Tensor,
        mask: Tensor | None,
        cross_kv: CrossInputs,
        image_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        """States [M, T, D] of texts that attend to their images; the arguments are those of `match`."""
        self._require_parts("encode_text", "pretrain", "filter", "vqa")
        rows = _plan(image_index, ids, cross_kv)
        return self.text_encoder(ids, TextInputs(mask_M1TS=_padding_mask(mask), cross=cross_kv, rows=rows))

    def match(
        self,
        ids: Tensor,
        mask: Tensor | None,
        cross_kv: CrossInputs,
        image_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        """ITM logits, float [M, 2]; class 1 is "matched".

        Args:
            ids: [M, T], opening with [ENC] (paper, section 3.1).
            mask: [M, T], 1 for real tokens; None if there is no padding.
            cross_kv: `cross_kv` of the encoder, or `cross_states`.
            image_index: [M], the image of each text, in any order; None assigns text m to image m.
        """
        self._require_parts("match", "pretrain", "filter")
        states_MTD = self.encode_text(ids, mask, cross_kv, image_index)
        return self.itm_head(states_MTD[:, 0]).float()

    def answer(
        self,
        ids: Tensor,
        questions: Questions,
        question_index: Tensor | None = None,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """LM logits of the next token at every position of answers, [M, T, V].

        `ids`, `mask` and `cache` are as in `decode`. `question_index` [M] is the question of each answer;
        None assigns answer m to question m. Unlike the generation of the reference, answers do not attend to
        the padding of questions, so an answer does not depend on the other questions of its batch.
        """
        self._require_parts("answer", "vqa")
        count = questions.kv[0][0].shape[0]
        rows = ImageRows.plan(question_index, ids.shape[0], count, ids.device, questions.mask_QN)
        return self.decode(ids, questions.kv, rows, mask, cache)

    def pair_kv(self, first_states: Tensor, second_states: Tensor) -> ImagePairKV:
        """Keys and values of image pairs for `judge_pair`; both arguments are states [B, N, W]."""
        self._require_parts("pair_kv", "nlvr")
        return [
            cast(ImagePairCrossAttention, layer.crossattention).keys_values(first_states, second_states)
            for layer in self.text_encoder.layers
        ]

    def judge_pair(
        self,
        ids: Tensor,
        mask: Tensor | None,
        pair_kv: ImagePairKV,
        pair_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        """NLVR2 logits, float [M, 2]; class 1 is "the sentence is true of the two images".

        `ids` [M, T] open with [ENC]. `mask` and `pair_index` are as in `match`, with pairs instead of images.
        """
        self._require_parts("judge_pair", "nlvr")
        rows = _plan(pair_index, ids, pair_kv)
        states_MTD = self.text_encoder(
            ids, TextInputs(mask_M1TS=_padding_mask(mask), cross=pair_kv, rows=rows)
        )
        return self.cls_head(states_MTD[:, 0]).float()

    def decode(
        self,
        ids: Tensor,
        cross_kv: CrossInputs,
        image_index: Tensor | ImageRows | None = None,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """LM logits of the next token at every position, [M, T, V].

        Args:
            ids: [M, T], opening with [DEC]; with a non-empty `cache`, the continuation of its tokens.
            cross_kv: `cross_kv` of the decoder, or `cross_states`.
            image_index: as in `match`. In a token loop, plan it once (`ImageRows.plan`).
            mask: [M, S] over cached and new tokens; not needed for padding on the right.
            cache: the tokens before `ids`; `ids` are appended to it.
        """
        return self.lm_logits(self.decode_states(ids, cross_kv, image_index, mask, cache))

    def decode_states(
        self,
        ids: Tensor,
        cross_kv: CrossInputs,
        image_index: Tensor | ImageRows | None = None,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """`decode` without the vocabulary projection, [M, T, D], to select positions before `lm_logits`."""
        self._require_parts("decode", "pretrain", "captioner", "vqa")
        start = cache.length if cache is not None else 0
        mask_M1TS, causal = decoder_mask(mask, ids.shape[1], start, ids.device)
        rows = _plan(image_index, ids, cross_kv)
        inputs = TextInputs(mask_M1TS=mask_M1TS, causal=causal, cache=cache, cross=cross_kv, rows=rows)
        return self.text_decoder.bert(ids, inputs)

    def lm_logits(self, states: Tensor) -> Tensor:
        """Vocabulary logits of decoder states, [..., D] to [..., V]."""
        return self.text_decoder.head(states)

    def _require_parts(self, method: str, *parts: Parts) -> None:
        if self.config.parts not in parts:
            allowed = " or ".join(f'"{name}"' for name in parts)
            raise ValueError(f'{method} needs parts {allowed}, but this model is a "{self.config.parts}"')


def _keys_values(text: TextTransformer, states_BNW: Tensor) -> CrossKV:
    return [cast(CrossAttention, layer.crossattention).keys_values(states_BNW) for layer in text.layers]


def _padding_mask(mask_MT: Tensor | None) -> Tensor | None:
    return None if mask_MT is None else mask_MT.bool()[:, None, None, :]


def _plan(image_index: Tensor | ImageRows | None, ids: Tensor, cross_kv: CrossInputs) -> ImageRows:
    if isinstance(image_index, ImageRows):
        return image_index
    return ImageRows.plan(image_index, ids.shape[0], cross_kv[0][0].shape[0], ids.device)
