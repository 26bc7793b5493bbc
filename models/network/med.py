"""MED, the multimodal mixture of encoder-decoder of BLIP (arXiv 2201.12086, section 3.1).

One image encoder and a text transformer that acts as text encoder (ITC), image-grounded encoder (ITM) and
image-grounded decoder (LM). Encoder and decoder share what Table 3 of the paper says. For answering questions
the decoder reads the encoder's states instead of the image; for judging a pair of images the encoder reads two
(figure 5). State-dict names are those of salesforce/BLIP, so its files fit by name.

Shape suffixes: those of models/network/text.py; E is the width of the joint embedding.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capfilt.models.config import MedConfig, Parts, Sharing
from capfilt.models.network.attention import CrossKV, DecoderCache, ImageRows, decoder_mask
from capfilt.models.network.text import CrossAttention, TextDecoder, TextReads, TextTransformer
from capfilt.models.network.two_images import TwinCrossAttention, TwinKV
from capfilt.models.network.vit import build_vit

INITIAL_TEMPERATURE = 0.07  # salesforce/BLIP models/blip_pretrain.py, as CLIP and ALBEF

# Table 3: the pieces of a layer that encoder and decoder have in common (unless "none", the embeddings too).
TIED_PIECES: dict[Sharing, tuple[str, ...]] = {
    "all": ("attention", "crossattention", "intermediate", "output"),
    "all_but_ca": ("attention", "intermediate", "output"),
    "all_but_sa": ("crossattention", "intermediate", "output"),
    "none": (),
}


class MED(nn.Module):
    """The model. Images are encoded once by `encode_image`; every other method takes what that returned."""

    def __init__(self, config: MedConfig) -> None:
        super().__init__()
        self.config = config
        text, image_width = config.text, config.vision.width
        self.visual_encoder = build_vit(config.vision)
        if config.parts == "nlvr":
            self.text_encoder = TextTransformer(text, image_width, TwinCrossAttention)
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
            self._tie()

    @property
    def has_encoder(self) -> bool:
        """Whether ITC and ITM can run."""
        return self.config.parts in ("pretrain", "filter")

    @property
    def has_decoder(self) -> bool:
        """Whether captions can be made."""
        return self.config.parts in ("pretrain", "captioner")

    @property
    def shares_cross_kv(self) -> bool:
        """Whether `cross_kv` of the encoder also serves the decoder: one call is then enough for both."""
        both = self.has_encoder and self.has_decoder
        return both and "crossattention" in TIED_PIECES[self.config.sharing]

    def _tie(self) -> None:
        if self.config.sharing == "none":
            return
        encoder, decoder = self.text_encoder, self.text_decoder
        decoder.bert.embeddings = encoder.embeddings
        decoder.head.decoder.weight = encoder.embeddings.word_embeddings.weight
        for ours, theirs in zip(decoder.bert.layers, encoder.layers, strict=True):
            for piece in TIED_PIECES[self.config.sharing]:
                setattr(ours, piece, getattr(theirs, piece))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Image tokens after the final norm, CLS first: [B, N, W].

        `pixels` [B, 3, S, S] are normalised floats (models/images/pixels.py). ValueError on bytes or another size.
        """
        side = self.config.vision.image_size
        if pixels.dtype == torch.uint8 or pixels.shape[1:] != (3, side, side):
            raise ValueError(
                f"encode_image got {pixels.dtype} pixels {tuple(pixels.shape)}: "
                f"normalised floats (B, 3, {side}, {side}) are due"
            )
        return self.visual_encoder.forward_features(pixels)

    def image_feature(self, image_states: Tensor) -> Tensor:
        """The image's point on the unit sphere of ITC, from CLS: [B, E]."""
        self._need("image_feature", "pretrain", "filter")
        return F.normalize(self.vision_proj(image_states[:, 0]).float(), dim=-1)

    def text_feature(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The text's point on ITC's unit sphere, [M, E]; `ids` [M, T] open with [CLS], mask as in `match`."""
        self._need("text_feature", "pretrain", "filter")
        states_MTD = self.text_encoder(ids, TextReads(mask_M1TS=_padding_mask(mask)))
        return F.normalize(self.text_proj(states_MTD[:, 0]).float(), dim=-1)

    def cross_kv(self, image_states: Tensor, which: Literal["encoder", "decoder"]) -> CrossKV:
        """Every layer's keys and values of images [B, N, W], each [B, H, N, K], to be read by any texts.

        Where `shares_cross_kv` holds both values of `which` mean the same parameters. The decoder of a "vqa"
        reads questions instead of images: the states [Q, T, D] that `encode_text` gave.
        """
        if which == "encoder":
            self._need("cross_kv of the encoder", "pretrain", "filter", "vqa")
        else:
            self._need("cross_kv of the decoder", "pretrain", "captioner", "vqa")
        text = self.text_encoder if which == "encoder" else self.text_decoder.bert
        return _keys_values(text, image_states)

    def encode_text(
        self,
        ids: Tensor,
        mask: Tensor | None,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        """States of texts that looked at their images, [M, T, D]; the arguments are those of `match`."""
        self._need("encode_text", "pretrain", "filter", "vqa")
        rows = _plan(image_index, ids, cross_kv)
        return self.text_encoder(ids, TextReads(mask_M1TS=_padding_mask(mask), cross=cross_kv, rows=rows))

    def match(
        self,
        ids: Tensor,
        mask: Tensor | None,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        """ITM logits, float [M, 2]; class 1 is "matched".

        `ids` [M, T] open with [ENC] (paper, section 3.1; position 0 of the tokenised text). `mask` [M, T] is
        1 on real tokens, None when nothing is padded. `cross_kv` is that of `which="encoder"`. `image_index`
        names each text's image in any order and number, negatives included; None when text m belongs to image
        m.
        """
        self._need("match", "pretrain", "filter")
        states_MTD = self.encode_text(ids, mask, cross_kv, image_index)
        return self.itm_head(states_MTD[:, 0]).float()

    def answer(
        self,
        ids: Tensor,
        question_kv: CrossKV,
        question_mask: Tensor | None,
        question_index: Tensor | None = None,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """LM logits of the next token of answers, [M, T, V]; `ids`, `mask` and `cache` are as in `decode`.

        `question_kv` is `cross_kv` of the states of Q questions, which open with [ENC]; `question_mask` [Q, N]
        is the one they were read with, None when nothing is padded. (The reference's generate attends to
        their padding, whereby an answer depends on the other questions of its batch; its training does not.)
        `question_index` names each answer's question, None when answer m belongs to question m.
        """
        self._need("answer", "vqa")
        questions = question_kv[0][0].shape[0]
        rows = ImageRows.plan(question_index, ids.shape[0], questions, ids.device, question_mask)
        return self.decode(ids, question_kv, rows, mask, cache)

    def pair_kv(self, first_states: Tensor, second_states: Tensor) -> TwinKV:
        """Keys and values of pairs of images, both states [B, N, W] of `encode_image`, for `judge_pair`."""
        self._need("pair_kv", "nlvr")
        return [
            cast(TwinCrossAttention, layer.crossattention).keys_values(first_states, second_states)
            for layer in self.text_encoder.layers
        ]

    def judge_pair(
        self,
        ids: Tensor,
        mask: Tensor | None,
        pair_kv: TwinKV,
        pair_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        """Logits of NLVR2, float [M, 2]; class 1 is "the sentence is true of the two images".

        `ids` [M, T] open with [ENC]; `mask` and `pair_index` are as in `match`, of pairs instead of images.
        """
        self._need("judge_pair", "nlvr")
        rows = _plan(pair_index, ids, pair_kv)
        states_MTD = self.text_encoder(
            ids, TextReads(mask_M1TS=_padding_mask(mask), cross=pair_kv, rows=rows)
        )
        return self.cls_head(states_MTD[:, 0]).float()

    def decode(
        self,
        ids: Tensor,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """LM logits of the next token at every position, [M, T, V].

        `ids` [M, T] open with [DEC]. With a `cache` they continue the tokens it holds, and are appended to
        it. `mask` [M, S] covers cached and new tokens; padding to the right needs none. `cross_kv`,
        `image_index`: as in `match`, of `which="decoder"`. In a token loop plan the index once
        (`ImageRows.plan`). Of a "vqa" this is `answer` with the plan made.
        """
        return self.lm_logits(self.decode_states(ids, cross_kv, image_index, mask, cache))

    def decode_states(
        self,
        ids: Tensor,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """`decode` before the vocabulary projection, [M, T, D]; for picking positions before `lm_logits`."""
        self._need("decode", "pretrain", "captioner", "vqa")
        start = cache.length if cache is not None else 0
        mask_M1TS, causal = decoder_mask(mask, ids.shape[1], start, ids.device)
        rows = _plan(image_index, ids, cross_kv)
        reads = TextReads(mask_M1TS=mask_M1TS, causal=causal, cache=cache, cross=cross_kv, rows=rows)
        return self.text_decoder.bert(ids, reads)

    def lm_logits(self, states: Tensor) -> Tensor:
        """Vocabulary logits of decoder states: [..., D] to [..., V]."""
        return self.text_decoder.head(states)

    def _need(self, what: str, *parts: Parts) -> None:
        if self.config.parts not in parts:
            allowed = " or ".join(f'"{name}"' for name in parts)
            raise ValueError(f'{what} needs parts {allowed}, but this model is a "{self.config.parts}"')


def _keys_values(text: TextTransformer, states_BNW: Tensor) -> CrossKV:
    return [cast(CrossAttention, layer.crossattention).keys_values(states_BNW) for layer in text.layers]


def _padding_mask(mask_MT: Tensor | None) -> Tensor | None:
    return None if mask_MT is None else mask_MT.bool()[:, None, None, :]


def _plan(image_index: Tensor | ImageRows | None, ids: Tensor, cross_kv: CrossKV | TwinKV) -> ImageRows:
    if isinstance(image_index, ImageRows):
        return image_index
    return ImageRows.plan(image_index, ids.shape[0], cross_kv[0][0].shape[0], ids.device)
