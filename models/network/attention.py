"""How tokens attend: to the text before them (cached), and to the image their text belongs to (shared).

The reference computes an image's keys and values anew for every text and every generated token, and repeats
the image for each beam. Here they exist once per image and layer; the texts, samples and beams of an image
all read that copy.

Shape suffixes: B images, M texts, n texts of one image at most, T tokens of a text, S cached + new tokens,
N image tokens, H heads, K channels per head, Q = n*T queries of one image.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

# Texts are laid out as (image, slot) so that K/V need no copy. Empty slots cost little: a text token's own
# layers are ~14 D^2 multiplications and its cross-attention only 2 N D. Beyond this many slots per text, K/V
# are gathered.
MAX_SLOTS_PER_TEXT = 4

CrossKV = list[tuple[Tensor, Tensor]]
"""Per layer the image's keys and values, each [B, H, N, K]."""


class DecoderCache:
    """Keys and values of the tokens a decoder has read, per layer [M, H, S, K]; `MED.decode` appends."""

    def __init__(self) -> None:
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def length(self) -> int:
        """Tokens held per text; the next token's position."""
        return self.layers[0][0].shape[2] if self.layers else 0

    def append(self, layer: int, key_MHTK: Tensor, value_MHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Add T tokens to one layer and return all of its keys and values, each [M, H, S, K]."""
        if layer in self.layers:
            key, value = self.layers[layer]
            key_MHTK = torch.cat([key, key_MHTK], dim=2)
            value_MHTK = torch.cat([value, value_MHTK], dim=2)
        self.layers[layer] = (key_MHTK, value_MHTK)
        return self.layers[layer]

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder texts (beams, finished texts): row i becomes what row `rows[i]` was."""
        for layer, (key, value) in self.layers.items():
            self.layers[layer] = (key.index_select(0, rows), value.index_select(0, rows))


@dataclass(frozen=True, kw_only=True)
class ImageRows:
    """Which image each text reads, turned once into the layout in which its cross-attention runs.

    Build it with `ImageRows.plan` and give it wherever an `image_index` is asked for; a plain tensor is
    planned on the spot, which costs one device synchronisation if it lies on a GPU.
    """

    texts: int
    """M."""
    images: int
    """B."""
    slots: int
    """n, the slots per image; 0 if keys and values are to be gathered."""
    index_M: Tensor
    """The image of each text, or its slot image*n + i when `slots` > 0."""
    in_order: bool
    """True when text m already sits in slot m of M slots, so that nothing moves."""
    mask_B11N: Tensor | None = None
    """True on the tokens that may be attended to; None for all, as with images, which have no padding."""

    @classmethod
    def plan(
        cls,
        image_index: Tensor | None,
        texts: int,
        images: int,
        device: torch.device,
        mask_BN: Tensor | None = None,
    ) -> "ImageRows":
        """Lay out `texts` texts over `images` images; None means one text per image, in order.

        `mask_BN` is 1 on the tokens to attend to, where what is read is no image but padded text (the
        questions of VQA). ValueError where the index has another length than M, or None is given and M is not
        B.
        """
        rows = cls._lay_out(image_index, texts, images, device)
        if mask_BN is None:
            return rows
        return replace(rows, mask_B11N=mask_BN.to(device).bool()[:, None, None, :])

    @classmethod
    def _lay_out(
        cls, image_index: Tensor | None, texts: int, images: int, device: torch.device
    ) -> "ImageRows":
        if image_index is None:
            if texts != images:
                raise ValueError(
                    f"{texts} texts and {images} images: give image_index to say which belongs to which"
                )
            return cls(texts=texts, images=images, slots=1, index_M=torch.empty(0), in_order=True)
        if image_index.shape != (texts,):
            raise ValueError(
                f"image_index has shape {tuple(image_index.shape)}: one entry per text, ({texts},), is due"
            )
        image_M = image_index.cpu()
        if texts and not 0 <= int(image_M.min()) <= int(image_M.max()) < images:
            raise ValueError(
                f"image_index holds {image_M.min()} to {image_M.max()}: images are 0 to {images - 1}"
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
        """Attention of every text to its image: [M, T, H, K]. K/V are copied only where `slots` is 0."""
        tokens, heads, head_width = query_MTHK.shape[1:]
        if not self.slots:
            key_MHNK, value_MHNK = (
                key_BHNK.index_select(0, self.index_M),
                value_BHNK.index_select(0, self.index_M),
            )
            query_MHTK = query_MTHK.transpose(1, 2)
            mask_M11N = None if self.mask_B11N is None else self.mask_B11N.index_select(0, self.index_M)
            out = F.scaled_dot_product_attention(
                query_MHTK, key_MHNK, value_MHNK, attn_mask=mask_M11N, dropout_p=dropout
            )
            return out.transpose(1, 2)
        if not self.in_order:
            slotted = query_MTHK.new_zeros(self.images * self.slots, tokens, heads, head_width)
            query_MTHK = slotted.index_copy(0, self.index_M, query_MTHK)
        # The n texts of an image are one long query: attention has no order among queries.
        query_BHQK = query_MTHK.reshape(self.images, self.slots * tokens, heads, head_width).transpose(1, 2)
        out_BHQK = F.scaled_dot_product_attention(
            query_BHQK, key_BHNK, value_BHNK, attn_mask=self.mask_B11N, dropout_p=dropout
        )
        out = out_BHQK.transpose(1, 2).reshape(self.images * self.slots, tokens, heads, head_width)
        return out if self.in_order else out.index_select(0, self.index_M)


def decoder_mask(
    mask_MS: Tensor | None, new: int, start: int, device: torch.device
) -> tuple[Tensor | None, bool]:
    """What `new` tokens after `start` cached ones may attend to: (a mask [M, 1, T, S] or None, plain causal
    or not).

    Padding to the right needs no mask at all: no real token comes after it, so none can look at it.
    """
    if mask_MS is None and start == 0:
        return None, new > 1
    if mask_MS is None and new == 1:
        return None, False
    seen = torch.ones(new, start + new, dtype=torch.bool, device=device).tril(diagonal=start)
    return (seen[None, None] if mask_MS is None else seen & mask_MS.bool()[:, None, None, :]), False
