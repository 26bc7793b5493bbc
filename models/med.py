"""MED, the multimodal mixture of encoder-decoder of BLIP (arXiv 2201.12086, section 3.1).

One image encoder and a text transformer that acts as text encoder (ITC), image-grounded encoder (ITM) and
image-grounded decoder (LM). Encoder and decoder share what Table 3 of the paper says. State-dict names are
those of salesforce/BLIP, so its files fit by name.

Shape suffixes: those of models/text.py; E is the width of the joint embedding.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import CrossKV, DecoderCache, ImageRows, decoder_mask
from models.config import MedConfig, Sharing
from models.text import TextDecoder, TextReads, TextTransformer
from models.vit import build_vit

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
        self.visual_encoder = build_vit(config.vision)
        if self.has_encoder:
            self.text_encoder = TextTransformer(config.text, config.vision.width)
            self.vision_proj = nn.Linear(config.vision.width, config.embed_dim)
            self.text_proj = nn.Linear(config.text.width, config.embed_dim)
            self.itm_head = nn.Linear(config.text.width, 2)
            self.temp = nn.Parameter(torch.tensor(INITIAL_TEMPERATURE))
        if self.has_decoder:
            self.text_decoder = TextDecoder(config.text, config.vision.width)
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

        `pixels` [B, 3, S, S] are normalised floats (models/images.py). ValueError on bytes or another size.
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
        self._need(self.has_encoder, "image_feature", "filter")
        return F.normalize(self.vision_proj(image_states[:, 0]).float(), dim=-1)

    def text_feature(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """The text's point on ITC's unit sphere, [M, E]; `ids` [M, T] open with [CLS], mask as in `match`."""
        self._need(self.has_encoder, "text_feature", "filter")
        states_MTD = self.text_encoder(ids, TextReads(mask_M1TS=_padding_mask(mask)))
        return F.normalize(self.text_proj(states_MTD[:, 0]).float(), dim=-1)

    def cross_kv(self, image_states: Tensor, which: Literal["encoder", "decoder"]) -> CrossKV:
        """Every layer's keys and values of images [B, N, W], each [B, H, N, K], to be read by any texts.

        Where `shares_cross_kv` holds both values of `which` mean the same parameters. The states may be any
        tokens of width W, such as the question states of VQA.
        """
        if which == "encoder":
            self._need(self.has_encoder, "cross_kv of the encoder", "filter")
            layers = self.text_encoder.layers
        else:
            self._need(self.has_decoder, "cross_kv of the decoder", "captioner")
            layers = self.text_decoder.bert.layers
        return [layer.crossattention.self.keys_values(image_states) for layer in layers]

    def encode_text(
        self,
        ids: Tensor,
        mask: Tensor | None,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        """States of texts that looked at their images, [M, T, D]; the arguments are those of `match`."""
        self._need(self.has_encoder, "match", "filter")
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
        states_MTD = self.encode_text(ids, mask, cross_kv, image_index)
        return self.itm_head(states_MTD[:, 0]).float()

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
        (`ImageRows.plan`).
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
        self._need(self.has_decoder, "decode", "captioner")
        start = cache.length if cache is not None else 0
        mask_M1TS, causal = decoder_mask(mask, ids.shape[1], start, ids.device)
        rows = _plan(image_index, ids, cross_kv)
        reads = TextReads(mask_M1TS=mask_M1TS, causal=causal, cache=cache, cross=cross_kv, rows=rows)
        return self.text_decoder.bert(ids, reads)

    def lm_logits(self, states: Tensor) -> Tensor:
        """Vocabulary logits of decoder states: [..., D] to [..., V]."""
        return self.text_decoder.head(states)

    def _need(self, there: bool, what: str, parts: str) -> None:
        if not there:
            raise ValueError(
                f'{what} needs parts "pretrain" or "{parts}", but this model is a "{self.config.parts}"'
            )


def _padding_mask(mask_MT: Tensor | None) -> Tensor | None:
    return None if mask_MT is None else mask_MT.bool()[:, None, None, :]


def _plan(image_index: Tensor | ImageRows | None, ids: Tensor, cross_kv: CrossKV) -> ImageRows:
    if isinstance(image_index, ImageRows):
        return image_index
    return ImageRows.plan(image_index, ids.shape[0], cross_kv[0][0].shape[0], ids.device)
