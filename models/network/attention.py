"""Attention inputs: the cache of previous text tokens, and the assignment of texts to images.

The reference computes the keys and values of an image again for every text and every generated token, and
repeats the image for each beam. Here they exist at most once per image and layer, and all texts, samples and
beams of the image share them. Where few text tokens attend to an image, they are not computed at all: texts
attend to the image states themselves.

Shape suffixes: B images, M texts, n texts per image at most, T tokens of a text, S cached + new tokens,
N image tokens, W their width, D text width, H heads, K = D / H channels per head, Q = n*T queries of one
image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

# Texts are laid out as (image, slot), so that keys and values need not be copied. Empty slots are cheap: the
# layers of a text token cost ~14 D^2 multiplications, its cross-attention only 2 N D. With more slots per
# text than this, keys and values are gathered instead.
MAX_SLOTS_PER_TEXT = 4
# On CPUs in bfloat16, torch's attention takes up to 2.6 times as long as two matrix products for heads of 768
# channels, such as those that attend to image states. Ordinary heads have 64.
WIDE_HEAD = 256

CrossKV = list[tuple[Tensor, Tensor]]
"""Keys and values of the images for each layer, each [B, H, N, K]."""

CrossStates = list[tuple[Tensor]]
"""The states of the images [B, N, W], the same tensor for each layer: keys and values are not computed."""

CrossInputs = Sequence[tuple[Tensor, ...]]
"""What the cross-attention of each layer gets: a `CrossKV` or `CrossStates`."""


def fewest_operations(shape: Sequence[int], width: int, heads: int, tokens: float) -> Literal["states", "kv"]:
    """Whether attending to states or to their keys and values takes fewer operations.

    Keys and values take 2 N W D multiplications an image and layer, once. Attending to states saves them, but
    each text token takes 2 D W more to project its query and its result, and 2 N (H W - D) more to compare
    and to average states of width W in each head, instead of keys and values of width D / H.

    Args:
        shape: of the states, [B, N, W].
        width, heads: D and H.
        tokens: text tokens per image.
    """
    _, count, source_width = shape
    extra = count * (heads * source_width - width) + width * source_width
    return "states" if tokens * extra < count * source_width * width else "kv"


def select_images(cross: CrossInputs, images: Tensor) -> CrossInputs:
    """The entries of these images (int64); a tensor that layers share is copied once."""
    copies = {id(tensor): tensor for layer in cross for tensor in layer}
    copies = {key: tensor.index_select(0, images) for key, tensor in copies.items()}
    return [tuple(copies[id(tensor)] for tensor in layer) for layer in cross]


class DecoderCache:
    """Keys and values of the tokens that a decoder has read. `MED.decode` appends.

    Each layer has two buffers [M, H, capacity, K], made at its first tokens. Later ones are written into
    them, so that a token loop neither allocates nor copies what is there already. For inference only.
    """

    def __init__(self, capacity: int) -> None:
        """`capacity` is the largest number of tokens per text."""
        self.capacity = capacity
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._lengths: dict[int, int] = {}

    @property
    def length(self) -> int:
        """Number of cached tokens per text, which is the position of the next token."""
        return self._lengths.get(0, 0)

    def append(self, layer: int, key_MHTK: Tensor, value_MHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Add T tokens to a layer.

        Returns:
            All keys and values of that layer, views of its buffers, each [M, H, S, K].

        Raises:
            ValueError: more tokens than `capacity`.
        """
        start = self._lengths.get(layer, 0)
        end = start + key_MHTK.shape[2]
        if end > self.capacity:
            raise ValueError(f"{end} tokens, but the cache has room for {self.capacity}: make it larger")
        if layer not in self._layers:
            texts, heads, _, channels = key_MHTK.shape
            size = (texts, heads, self.capacity, channels)
            self._layers[layer] = key_MHTK.new_empty(size), value_MHTK.new_empty(size)
        key, value = self._layers[layer]
        key[:, :, start:end] = key_MHTK
        value[:, :, start:end] = value_MHTK
        self._lengths[layer] = end
        return key[:, :, :end], value[:, :, :end]

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder texts: new row i is old row `rows[i]`."""
        for layer, buffers in self._layers.items():
            key, value = (_select_rows(buffer, rows, self._lengths[layer]) for buffer in buffers)
            self._layers[layer] = key, value


def _select_rows(buffer: Tensor, rows: Tensor, length: int) -> Tensor:
    """A buffer with the first `length` tokens of these rows: the same one if it has as many rows."""
    selected = buffer[:, :, :length].index_select(0, rows)
    if len(rows) != len(buffer):
        buffer = buffer.new_empty((len(rows), *buffer.shape[1:]))
    buffer[:, :, :length] = selected
    return buffer


@dataclass(frozen=True, kw_only=True)
class ImageRows:
    """Assigns each text to the image it attends to, in the layout that cross-attention uses.

    Create it with `ImageRows.plan` and pass it as `image_index`. Passing a plain tensor instead plans it on
    every call, which synchronizes the device if the tensor is on a GPU.
    """

    texts: int
    """M."""
    images: int
    """B."""
    slots: int
    """n, the slots per image; 0 if keys and values are gathered."""
    index_M: Tensor
    """The image of each text; if `slots` > 0, the slot image*n + i of each text."""
    in_order: bool
    """True if text m is already in slot m of M slots, so that no text has to move."""
    mask_B11N: Tensor | None = None
    """True for tokens that may be attended to; None for all (images have no padding)."""

    @classmethod
    def plan(
        cls,
        image_index: Tensor | None,
        texts: int,
        images: int,
        device: torch.device,
        mask_BN: Tensor | None = None,
    ) -> ImageRows:
        """Assign M `texts` to B `images`.

        Args:
            image_index: int64 [M], the image of each text; None assigns text m to image m.
            texts: M.
            images: B.
            device: device of the model.
            mask_BN: 1 for tokens to attend to, if texts attend to padded texts (the questions of VQA) instead
                of images.

        Raises:
            ValueError: `image_index` does not have length M, is out of range, or is None although M is not B.
        """
        rows = cls._lay_out(image_index, texts, images, device)
        if mask_BN is None:
            return rows
        return replace(rows, mask_B11N=mask_BN.to(device).bool()[:, None, None, :])

    @classmethod
    def _lay_out(cls, image_index: Tensor | None, texts: int, images: int, device: torch.device) -> ImageRows:
        if image_index is None:
            if texts != images:
                raise ValueError(
                    f"{texts} texts and {images} images: pass image_index to assign each text to an image"
                )
            return cls(texts=texts, images=images, slots=1, index_M=torch.empty(0), in_order=True)
        if image_index.shape != (texts,):
            raise ValueError(
                f"image_index has shape {tuple(image_index.shape)}: expected one entry per text, ({texts},)"
            )
        image_M = image_index.cpu()
        if texts and not 0 <= int(image_M.min()) <= int(image_M.max()) < images:
            raise ValueError(
                f"image_index ranges from {image_M.min()} to {image_M.max()}: expected 0 to {images - 1}"
            )
        counts_B = torch.bincount(image_M, minlength=images)
        slots = int(counts_B.max())
        if images * slots > MAX_SLOTS_PER_TEXT * texts:
            return cls(texts=texts, images=images, slots=0, index_M=image_M.to(device), in_order=False)
        order_M = torch.argsort(image_M, stable=True)
        first_B = counts_B.cumsum(0) - counts_B
        nth_M = torch.empty_like(image_M)
        nth_M[order_M] = torch.arange(texts) - first_B[image_M[order_M]]
        slot_M = image_M * slots + nth_M
        in_order = images * slots == texts and torch.equal(slot_M, torch.arange(texts))
        return cls(texts=texts, images=images, slots=slots, index_M=slot_M.to(device), in_order=in_order)

    def attend(self, query_MTHK: Tensor, key_BHNK: Tensor, value_BHNK: Tensor, dropout: float) -> Tensor:
        """Attention of every text to its image, [M, T, H, K]. Copies keys and values only if `slots` is 0."""
        if not self.slots:
            return self._attend_gathered(query_MTHK, key_BHNK, value_BHNK, dropout)
        tokens, heads, head_width = query_MTHK.shape[1:]
        if not self.in_order:
            slotted = query_MTHK.new_zeros(self.images * self.slots, tokens, heads, head_width)
            query_MTHK = slotted.index_copy(0, self.index_M, query_MTHK)
        # Queries do not interact, so the n texts of an image are computed as one long query.
        query_BHQK = query_MTHK.reshape(self.images, self.slots * tokens, heads, head_width).transpose(1, 2)
        out_BHQK = _attend(query_BHQK, key_BHNK, value_BHNK, self.mask_B11N, dropout)
        out = out_BHQK.transpose(1, 2).reshape(self.images * self.slots, tokens, heads, head_width)
        return out if self.in_order else out.index_select(0, self.index_M)

    def _attend_gathered(
        self, query_MTHK: Tensor, key_BHNK: Tensor, value_BHNK: Tensor, dropout: float
    ) -> Tensor:
        key_MHNK, value_MHNK = (kv.index_select(0, self.index_M) for kv in (key_BHNK, value_BHNK))
        mask_M11N = None if self.mask_B11N is None else self.mask_B11N.index_select(0, self.index_M)
        out = F.scaled_dot_product_attention(
            query_MTHK.transpose(1, 2), key_MHNK, value_MHNK, attn_mask=mask_M11N, dropout_p=dropout
        )
        return out.transpose(1, 2)


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
    """Attention of queries [B, H, Q, K] to keys and values [B, H, N, K]."""
    is_slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.shape[3] >= WIDE_HEAD
    if not is_slow or mask is not None or dropout:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores_BHQN = (query / math.sqrt(query.shape[3])) @ key.transpose(2, 3)
    return scores_BHQN.softmax(-1) @ value


def decoder_mask(
    mask_MS: Tensor | None, new: int, start: int, device: torch.device
) -> tuple[Tensor | None, bool]:
    """The self-attention mask of `new` tokens after `start` cached ones.

    Padding on the right needs no mask: it comes after every real token, which therefore cannot attend to it.

    Returns:
        (mask [M, 1, T, S] or None, whether to use plain causal attention instead of a mask).
    """
    if mask_MS is None and start == 0:
        return None, new > 1
    if mask_MS is None and new == 1:
        return None, False
    causal = torch.ones(new, start + new, dtype=torch.bool, device=device).tril(diagonal=start)
    return (causal[None, None] if mask_MS is None else causal & mask_MS.bool()[:, None, None, :]), False
