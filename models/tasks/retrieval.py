"""Image-text retrieval with a MED: ITC finds the top k, ITM re-ranks them (BLIP paper, section 5.1).

Protocol, where evaluations differ from one another:

* Galleries are as given: all images, all texts, duplicates included.
* A hit is any right item: for an image every text that reads the same as one of its own, for a text every
  image that has a text reading the same. Texts are compared as the model reads them, normalised.
* Ties count against the model: a wrong item with the same score stands before the right one, so that a model
  that scores everything alike gets 0 and not 100.
* The final score of a pair is ITM logit + cosine, as in the reference's retrieval evaluation. Only the top k
  of a query are re-ranked; an item outside them is never found, so k bounds every re-ranked recall.

Each image is encoded once. Its token states wait on the host and return to the device once, with all its pairs
of both directions, where its cross-attention keys and values are computed once. (The reference moves 13.6 TB
in one pass over COCO's test part: shared/docs/blip.md, 6.13.)

Shapes: B images of a batch, I images, G texts, U different texts, Q queries, N items of a gallery, P pairs,
T tokens, E embedding width, D vision width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from capfilt.models.caption_text import normalize_caption
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.micro_batches import MicroBatches

log = logging.getLogger(__name__)

RECALL_AT = (1, 5, 10)
MAX_TOKENS = 35
"""Longest text in tokens, as in the reference's retrieval evaluation."""
MAX_WORDS = 30
"""Words of a text that are read, as in the reference's pre_caption."""
ROWS_AT_A_TIME = 1024
"""Queries ranked together; bounds the temporaries beside the [I, G] matrices (COCO test part: 500 MB each)."""


@torch.inference_mode()
def evaluate_retrieval(
    med: MED,
    tokenizer: Tokenizer,
    pixels_batches: Iterable[Tensor],
    texts: Sequence[str],
    image_of_text: Sequence[int],
    k: int,
    device: torch.device | str,
    batch_size: int = 64,
    on_notice: Callable[[str], None] = log.warning,
) -> dict[str, float]:
    """Recall at 1, 5 and 10 both ways, by ITC alone and re-ranked by ITM.

    Args:
        med: a MED with parts "pretrain" or "filter", on `device`.
        pixels_batches: uint8 images [B,3,S,S]; image i is the i-th over all batches. An image without a text
            belongs to the gallery and is no query.
        texts: the G texts.
        image_of_text: for each text, the number of its image.
        k: candidates of each query that ITM re-ranks (paper: 256 for COCO, 128 for Flickr30K); cut to the
            size of the gallery.
        batch_size: images, texts or pairs of one forward pass; halved, for each of these alone, when the device runs
            out of memory. The results do not depend on it (but for rounding).
        on_notice: receives a line when that happens.

    Returns:
        Percent: "tr@1", "tr@5", "tr@10" (image → text), "ir@1", "ir@5", "ir@10" (text → image), and the same
        six with "itc_" in front for ITC alone.

    Raises:
        ValueError: no texts, lists of different length, an image number out of range, or k < 1.
        OutOfMemory: not even one image, text or pair at a time fits.
    """
    if not texts or len(texts) != len(image_of_text):
        raise ValueError(
            f"retrieval needs texts and the image of each: got {len(texts)} and {len(image_of_text)}"
        )
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    of_images, of_texts, of_pairs = (MicroBatches(batch_size, of) for of in ("images", "texts", "pairs"))
    of_images.on_notice = of_texts.on_notice = of_pairs.on_notice = on_notice
    was_training = med.training
    med.eval()
    try:
        states, image_features = _encode_images(med, pixels_batches, device, of_images)
        _check_images(image_of_text, len(states))
        unique, which = _unique_texts(texts)
        text_features = _encode_texts(med, tokenizer, unique, device, of_texts)
        cosine = image_features @ text_features.T  # [I, U]
        top_texts = _top(cosine[:, which], k)  # [I, G]
        top_images = _top(cosine[:, which].T, k).T  # [I, G]
        wanted = _merge_texts(top_texts | top_images, which, len(unique))  # [I, U]
        match = _match(med, tokenizer, states, unique, wanted, device, of_pairs) + cosine
    finally:
        med.train(was_training)
    right = torch.zeros(len(states), len(unique), dtype=torch.bool)
    right[torch.tensor(image_of_text), which] = True
    right, cosine, match = right[:, which], cosine[:, which], match[:, which]  # all [I, G] from here
    asked = right.any(dim=1)
    recalls = {
        "tr": recall_from_scores(match.masked_fill(~top_texts, -torch.inf)[asked], right[asked]),
        "ir": recall_from_scores(match.masked_fill(~top_images, -torch.inf).T, right.T),
        "itc_tr": recall_from_scores(cosine[asked], right[asked]),
        "itc_ir": recall_from_scores(cosine.T, right.T),
    }
    return {f"{name}@{n}": value for name, recall in recalls.items() for n, value in recall.items()}


def recall_from_scores(scores: Tensor, right: Tensor, at: Sequence[int] = RECALL_AT) -> dict[int, float]:
    """Percent of queries with a right item among the first n, for each n of `at`.

    The rank of a query is the number of wrong items that score at least as high as its best right item; a
    right item scored -inf (not a candidate) or NaN is not found.

    Args:
        scores: [Q, N].
        right: [Q, N] bool.
    """
    found = dict.fromkeys(at, 0)
    for s, r in zip(scores.split(ROWS_AT_A_TIME), right.split(ROWS_AT_A_TIME), strict=True):
        best = s.masked_fill(~r, -torch.inf).amax(dim=1)  # [Q]
        ahead = (~(s < best[:, None]) & ~r).sum(dim=1)  # "not lower" also counts a wrong item's NaN
        for n in at:
            found[n] += int(((ahead < n) & (best > -torch.inf)).sum())
    return {n: 100 * count / len(scores) for n, count in found.items()}


def _check_images(image_of_text: Sequence[int], images: int) -> None:
    if min(image_of_text) < 0 or max(image_of_text) >= images:
        raise ValueError(
            f"image_of_text goes from {min(image_of_text)} to {max(image_of_text)}, but there are {images} "
            f"images, numbered from 0"
        )


def _encode_images(
    med: MED, pixels_batches: Iterable[Tensor], device: torch.device | str, batches: MicroBatches
) -> tuple[list[Tensor], Tensor]:
    """Token states of each image, on the host in the model's precision, and ITC features [I,E] float32."""
    dtype = next(med.parameters()).dtype

    def encode(pixels: Tensor, now: slice) -> list[tuple[Tensor, Tensor]]:
        encoded = med.encode_image(normalize(pixels[now], dtype=dtype, device=device))  # [B,N,D]
        features = med.image_feature(encoded).float().cpu()
        return list(zip(encoded.cpu(), features, strict=True))

    rows: list[tuple[Tensor, Tensor]] = []
    for pixels in pixels_batches:
        rows += batches.run(partial(encode, pixels), len(pixels))
    features = torch.stack([feature for _, feature in rows]) if rows else torch.empty(0, 0)
    return [states for states, _ in rows], features


def _unique_texts(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """The different texts as the model reads them, and for each text the number of its own [G]."""
    number: dict[str, int] = {}
    which = [number.setdefault(normalize_caption(text, MAX_WORDS), len(number)) for text in texts]
    return list(number), torch.tensor(which)


def _encode_texts(
    med: MED, tokenizer: Tokenizer, texts: Sequence[str], device: torch.device | str, batches: MicroBatches
) -> Tensor:
    """ITC features of the texts [U,E], float32 on the host."""

    def encode(now: slice) -> list[Tensor]:
        ids, mask = tokenizer.encode(texts[now], MAX_TOKENS, first="cls")
        return list(med.text_feature(ids.to(device), mask.to(device)).float().cpu())

    return torch.stack(batches.run(encode, len(texts)))


def _top(scores: Tensor, k: int) -> Tensor:
    """Mask [Q,N] of the k best items of each row."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


def _merge_texts(pairs: Tensor, which: Tensor, unique: int) -> Tensor:
    """Mask of (image, text) pairs [I,G] as a mask over different texts [I,U]."""
    merged = torch.zeros(len(pairs), unique, dtype=torch.bool)
    image, text = pairs.nonzero(as_tuple=True)
    merged[image, which[text]] = True
    return merged


def _match(
    med: MED,
    tokenizer: Tokenizer,
    states: Sequence[Tensor],
    texts: Sequence[str],
    wanted: Tensor,
    device: torch.device | str,
    batches: MicroBatches,
) -> Tensor:
    """ITM logit "matched" of the wanted pairs [I,U], float32 on the host; 0 elsewhere."""
    ids, mask = tokenizer.encode(texts, MAX_TOKENS, first="enc")  # [U,T]
    logits = torch.zeros(wanted.shape)
    pairs = wanted.sum(dim=1).tolist()

    def judge(first: int, size: int) -> int:
        """All pairs of the images from `first` on that make up a block, `size` pairs at a time; the next image."""
        last = _end_of_block(pairs, first, size)
        cross_kv = med.cross_kv(torch.stack(list(states[first:last])).to(device), which="encoder")
        image, text = wanted[first:last].nonzero(as_tuple=True)  # sorted by image
        for rows, columns in zip(image.split(size), text.split(size), strict=True):
            length = int(mask[columns].sum(dim=1).max())
            scores = med.match(
                ids[columns, :length].to(device),
                mask[columns, :length].to(device),
                cross_kv,
                image_index=rows,  # on the host: the layout is planned there
            )
            logits[first + rows, columns] = scores[:, 1].float().cpu()
        return last

    first = 0
    while first < len(pairs):
        of_block = sum(pairs[first : _end_of_block(pairs, first, batches.size)])
        first = batches.fit(partial(judge, first), of_block)
    return logits


def _end_of_block(pairs: Sequence[int], first: int, limit: int) -> int:
    """End of the run of images from `first` on with at most `limit` pairs together; an image with more stands alone."""
    last, together = first + 1, pairs[first]
    while last < len(pairs) and together + pairs[last] <= limit:
        together += pairs[last]
        last += 1
    return last
