"""Evaluation of image-text retrieval: ITC selects the top k, ITM re-ranks them (BLIP paper, section 5.1).

Choices of the protocol in which evaluations differ:

* The galleries are all images and all texts, duplicates included.
* Positives: for an image every text that equals one of its own texts, for a text every image with an equal
  text. Texts are compared after normalization.
* Ties count against the model: a negative with the same score ranks before the positive, so that a model that
  gives every pair the same score gets 0, not 100.
* The final score of a pair is ITM logit + cosine, as in the reference. Only the top k of a query are
  re-ranked; other items are never found, so k bounds the re-ranked recall.

Each image is encoded once. Its token states stay on the device where they fit (4.4 GB in bfloat16 for the
5,000 images of the COCO test set), else they wait on the host and return once. Cross-attention keys and
values of an image are computed once, for all its pairs of both directions. (The reference transfers 13.6 TB
in one pass over the COCO test set.)

Shapes: B images of a batch, I images, G texts, U unique texts, Q queries, N items of a gallery, T tokens,
E embedding dimension.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import fmean, median
from typing import Literal

import torch
from torch import Tensor

from capfilt.models.caption_text import MAX_WORDS, normalize_caption
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.options import BATCH_SIZE, MAX_TOKENS

log = logging.getLogger(__name__)

RECALL_AT = (1, 5, 10)
QUERIES_AT_A_TIME = 1024
"""Queries ranked together, to bound temporaries beside the [I, G] matrices (500 MB each for the COCO test
set)."""


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """Images and their texts."""

    pixel_batches: Iterable[Tensor]
    """uint8 pixels [B, 3, S, S]. Images are numbered over all batches. An image without a text belongs to the
    gallery but is not a query."""
    texts: Sequence[str]
    """The G texts."""
    image_of_text: Sequence[int]
    """The number of the image of each text."""
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """{name: numbers of its images}: groups of queries that are also reported apart. The galleries stay all
    images and all texts."""


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """How `evaluate_retrieval` ranks."""

    k: int
    """Candidates per query that ITM re-ranks, at most the size of the gallery (paper: COCO 256, Flickr30K
    128)."""
    batch_size: int = BATCH_SIZE
    """Images, texts or pairs per forward pass; each of the three is halved separately when the device runs
    out of memory. The results do not depend on it, except for rounding."""
    itm_token: Literal["enc", "cls"] = "enc"
    """First token of a text for the ITM head; see `models.tasks.options.MatcherOptions`."""
    median_rank: bool = False
    """Also compute the median rank of the best image of a text, "ir_mdr", as evaluations of videos do."""
    on_notice: Callable[[str], None] = log.warning
    """Receives a line when a batch size is halved."""
    on_progress: Callable[[str, int], None] = lambda step, images: None
    """Receives a step, "encoding" or "ranking", and the number of images with which it is done."""


@torch.inference_mode()
def evaluate_retrieval(
    med: MED, tokenizer: Tokenizer, data: RetrievalSet, options: RetrievalOptions
) -> dict[str, float]:
    """Recall at 1, 5 and 10 in both directions, by ITC only and re-ranked by ITM.

    Args:
        med: a MED with parts "pretrain" or "filter", on the device to use.
        tokenizer: its tokenizer.
        data: images and texts.
        options: number of candidates, batch size.

    Returns:
        Percentages: "tr@1", "tr@5", "tr@10" (image to text), "ir@1", "ir@5", "ir@10" (text to image), and the
        same six with prefix "itc_" for ITC only, and the means of the six, "r_mean" and "itc_r_mean". For
        each group the same fourteen with prefix "<group>/", as far as it has queries.

    Raises:
        ValueError: no texts, lists of different length, an image number out of range, or k < 1.
        OutOfMemory: memory does not suffice for one image, text or pair.
    """
    texts, image_of_text = data.texts, data.image_of_text
    if not texts or len(texts) != len(image_of_text):
        raise ValueError(
            "retrieval needs texts and the image of each: "
            f"got {len(texts)} texts and {len(image_of_text)} images"
        )
    if options.k < 1:
        raise ValueError(f"k is {options.k}: it must be at least 1")
    batches = {unit: MicroBatches(options.batch_size, unit) for unit in ("images", "texts", "pairs")}
    for unit_batches in batches.values():
        unit_batches.on_notice = options.on_notice
    was_training = med.training
    med.eval()
    try:
        on_images = partial(options.on_progress, "encoding")
        states, image_features = _encode_images(med, data.pixel_batches, batches["images"], on_images)
        _check_image_numbers(image_of_text, len(states))
        unique, unique_of_text = _unique_texts(texts)
        text_features = _encode_texts(med, tokenizer, unique, batches["texts"])
        cosine = image_features @ text_features.T  # [I, U]
        top_texts = _top(cosine[:, unique_of_text], options.k)  # [I, G]
        top_images = _top(cosine[:, unique_of_text].T, options.k).T  # [I, G]
        pairs = _to_unique_texts(top_texts | top_images, unique_of_text, len(unique))  # [I, U]
        tokens = tokenizer.encode(unique, MAX_TOKENS, first=options.itm_token)
        ranked = batches["pairs"]
        ranked.on_progress = lambda: options.on_progress("ranking", ranked.done)
        final = score_pairs(med, states, tokens, pairs, ranked) + cosine
    finally:
        med.train(was_training)
    positive = torch.zeros(len(states), len(unique), dtype=torch.bool)
    positive[torch.tensor(image_of_text), unique_of_text] = True
    # From here on all matrices are [I, G].
    positive, cosine, final = (matrix[:, unique_of_text] for matrix in (positive, cosine, final))
    to_texts = {"tr": final.masked_fill(~top_texts, -torch.inf), "itc_tr": cosine}
    to_images = {"ir": final.masked_fill(~top_images, -torch.inf).T, "itc_ir": cosine.T}
    result: dict[str, float] = {}
    for prefix, numbers in [("", range(len(states))), *((f"{g}/", n) for g, n in data.groups.items())]:
        in_group = torch.zeros(len(states), dtype=torch.bool)
        in_group[list(numbers)] = True
        images, queries = in_group & positive.any(dim=1), in_group[torch.tensor(image_of_text)]
        scores = [(name, matrix[images], positive[images]) for name, matrix in to_texts.items()]
        scores += [(name, matrix[queries], positive.T[queries]) for name, matrix in to_images.items()]
        if images.any():
            for name, of_queries, found in scores:
                recalls = recall_from_scores(of_queries, found)
                result |= {f"{prefix}{name}@{n}": value for n, value in recalls.items()}
            for kind in ("", "itc_"):
                six = [result[f"{prefix}{kind}{way}@{n}"] for way in ("tr", "ir") for n in RECALL_AT]
                result[f"{prefix}{kind}r_mean"] = fmean(six)
        if options.median_rank and queries.any():
            result[f"{prefix}ir_mdr"] = median_rank(to_images["ir"][queries], positive.T[queries])
    return result


def recall_from_scores(scores: Tensor, positive: Tensor, at: Sequence[int] = RECALL_AT) -> dict[int, float]:
    """Percentage of queries with a positive among the first n items, for each n of `at`.

    The rank of a query is the number of negatives that score at least as high as its best positive. A
    positive with score -inf (not a candidate) or NaN is not found.

    Args:
        scores: [Q, N].
        positive: bool [Q, N].
        at: the values of n.
    """
    ahead, is_found = _count_ahead(scores, positive)
    return {n: 100 * int(((ahead < n) & is_found).sum()) / len(scores) for n in at}


def median_rank(scores: Tensor, positive: Tensor) -> float:
    """The median over queries of the rank of the best positive, from 1; the arguments are those of
    `recall_from_scores`. A positive that is not found comes after all negatives."""
    ahead, _ = _count_ahead(scores, positive)
    return median((ahead + 1).tolist())


def _count_ahead(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """The number of negatives before the best positive of each query, [Q], and whether it is found, [Q]."""
    parts = []
    chunks = zip(scores.split(QUERIES_AT_A_TIME), positive.split(QUERIES_AT_A_TIME), strict=True)
    for chunk, chunk_positive in chunks:
        best = chunk.masked_fill(~chunk_positive, -torch.inf).amax(dim=1)  # [Q]
        # "Not lower" instead of "at least" also counts negatives with score NaN.
        ahead = (~(chunk < best[:, None]) & ~chunk_positive).sum(dim=1)
        parts.append((ahead, best > -torch.inf))
    return torch.cat([ahead for ahead, _ in parts]), torch.cat([found for _, found in parts])


def score_pairs(
    med: MED,
    states: Sequence[Tensor],
    tokens: tuple[Tensor, Tensor],
    pairs: Tensor,
    batches: MicroBatches,
) -> Tensor:
    """ITM logits "matched" of (image, text) pairs, float32 [I, U] on the host; 0 for other pairs.

    Args:
        med: the model.
        states: the token states of each image.
        tokens: ids and mask [U, T] of the texts, opening with [ENC].
        pairs: bool [I, U], the pairs to score.
        batches: pairs per forward pass; its `done` counts images.
    """
    ids, mask = tokens
    device = _device(med)
    logits = torch.zeros(pairs.shape)
    pairs_per_image = pairs.sum(dim=1).tolist()

    def score_block(first: int, size: int) -> int:
        """Score all pairs of the block of images that begins at `first`, `size` at a time; returns its
        end."""
        end = _end_of_block(pairs_per_image, first, size)
        cross_kv = med.cross_kv(torch.stack([s.to(device) for s in states[first:end]]), which="encoder")
        image, text = pairs[first:end].nonzero(as_tuple=True)  # sorted by image
        for rows, columns in zip(image.split(size), text.split(size), strict=True):
            length = int(mask[columns].sum(dim=1).max())
            scores = med.match(
                ids[columns, :length].to(device),
                mask[columns, :length].to(device),
                cross_kv,
                image_index=rows,  # on the host, where it is planned
            )
            logits[first + rows, columns] = scores[:, 1].float().cpu()
        batches.done = end
        return end

    first = 0
    while first < len(pairs_per_image):
        limit = sum(pairs_per_image[first : _end_of_block(pairs_per_image, first, batches.size)])
        first = batches.run_once(partial(score_block, first), limit)
    return logits


def _end_of_block(pairs_per_image: Sequence[int], first: int, limit: int) -> int:
    """The end of the images from `first` on that have at most `limit` pairs in total, at least one image."""
    end, total = first + 1, pairs_per_image[first]
    while end < len(pairs_per_image) and total + pairs_per_image[end] <= limit:
        total += pairs_per_image[end]
        end += 1
    return end


def _check_image_numbers(image_of_text: Sequence[int], images: int) -> None:
    lowest, highest = min(image_of_text), max(image_of_text)
    if lowest < 0 or highest >= images:
        raise ValueError(
            f"image_of_text ranges from {lowest} to {highest}: expected 0 to {images - 1} for {images} images"
        )


def _encode_images(
    med: MED, pixel_batches: Iterable[Tensor], batches: MicroBatches, on_images: Callable[[int], None]
) -> tuple[list[Tensor], Tensor]:
    """Token states of each image in the model's precision, on the device or the host, and ITC features [I, E]
    in float32 on the host."""
    dtype = next(med.parameters()).dtype

    def encode(pixels: Tensor, rows: slice) -> list[tuple[Tensor, Tensor]]:
        encoded = med.encode_image(normalize(pixels[rows], dtype=dtype, device=_device(med)))
        features = med.image_feature(encoded).float().cpu()
        waiting = encoded if _stays_on_device(encoded.device) else encoded.cpu()
        return list(zip(waiting, features, strict=True))

    images: list[tuple[Tensor, Tensor]] = []
    for pixels in pixel_batches:
        images += batches.run(partial(encode, pixels), len(pixels))
        on_images(len(images))
    features = torch.stack([feature for _, feature in images]) if images else torch.empty(0, 0)
    return [states for states, _ in images], features


def _stays_on_device(device: torch.device) -> bool:
    """Whether token states wait there: while half of its memory is free, which is left to the ranking."""
    if device.type != "cuda":
        return False
    free, total = torch.cuda.mem_get_info(device)
    return 2 * free >= total


def _unique_texts(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """The U unique texts after normalization, and the number of each text among them, [G]."""
    numbers: dict[str, int] = {}
    unique_of_text = [numbers.setdefault(normalize_caption(text, MAX_WORDS), len(numbers)) for text in texts]
    return list(numbers), torch.tensor(unique_of_text)


def _encode_texts(med: MED, tokenizer: Tokenizer, texts: Sequence[str], batches: MicroBatches) -> Tensor:
    """ITC features of the texts, float32 [U, E] on the host."""

    def encode(rows: slice) -> list[Tensor]:
        ids, mask = tokenizer.encode(texts[rows], MAX_TOKENS, first="cls")
        return list(med.text_feature(ids.to(_device(med)), mask.to(_device(med))).float().cpu())

    return torch.stack(batches.run(encode, len(texts)))


def _top(scores: Tensor, k: int) -> Tensor:
    """Mask [Q, N] of the k best items of each row."""
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, best, True)


def _to_unique_texts(pairs: Tensor, unique_of_text: Tensor, unique: int) -> Tensor:
    """Convert a mask of (image, text) pairs [I, G] to a mask over unique texts [I, U]."""
    converted = torch.zeros(len(pairs), unique, dtype=torch.bool)
    image, text = pairs.nonzero(as_tuple=True)
    converted[image, unique_of_text[text]] = True
    return converted


def _device(med: MED) -> torch.device:
    return next(med.parameters()).device
