"""The filter of CapFilt: scores how well texts match their images (BLIP paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from capfilt.models.images.pixels import normalize
from capfilt.models.network.attention import CrossInputs
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.options import MAX_TOKENS, MatcherOptions
from capfilt.models.tasks.placement import Images, TaskModel


@dataclass(frozen=True)
class Score:
    """How well a text matches its image."""

    itm_prob: float
    """Probability of "matched": softmax of the ITM head. The paper keeps texts with at least 0.5."""
    itc_sim: float
    """Cosine similarity of the ITC features of image and text."""
    text_sim: float | None = None
    """Largest cosine similarity of the ITC features of the text and of the texts that it was compared with;
    None if it was compared with none."""


class Matcher(TaskModel[MatcherOptions]):
    """Scores texts against their images. Each image is encoded once for all of its texts."""

    parts = "filter"
    options_type = MatcherOptions

    def __init__(
        self,
        med: MED,
        tokenizer: Tokenizer,
        options: MatcherOptions | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        """Prepare a model for matching; it is moved, cast and put in eval mode in place.

        Raises:
            ValueError: the model has no text encoder with the heads of ITM and ITC.
        """
        if not med.has_encoder:
            raise ValueError(
                f'the model is a "{med.config.parts}" and has no text encoder with the heads of ITM and ITC: '
                'use a "filter" or a "pretrain"'
            )
        super().__init__(med, tokenizer, options, device=device)
        self.itm_id = {"enc": tokenizer.enc_id, "cls": tokenizer.cls_id}[self.options.itm_token]
        self.batches = MicroBatches(self.options.batch_size, unit="images or texts")

    def match(
        self, images: Images, texts: Sequence[Sequence[str]], compared: Sequence[int] | None = None
    ) -> list[list[Score]]:
        """Score each text of each image, in the given order.

        Args:
            compared: of each image, how many of its texts, the first ones, are compared with the other ones
                (`Score.text_sim`): its web texts with its captions. This needs no pass of its own. By default
                none is.

        Texts are used unchanged; BLIP was trained on texts normalized by `caption_text.normalize_caption`.
        Texts are cut at `MAX_TOKENS`. Images without texts are skipped. Encoded images are decoded while the
        device processes the previous batch.
        """
        compared = [0] * len(texts) if compared is None else compared
        if len(texts) != len(images) or len(compared) != len(images):
            raise ValueError(
                f"{len(images)} images but {len(texts)} lists of texts and {len(compared)} numbers of "
                "compared texts: pass one per image"
            )
        with_texts = [i for i, image_texts in enumerate(texts) if image_texts]
        selected = images[with_texts] if isinstance(images, Tensor) else [images[i] for i in with_texts]
        scores: list[list[Score]] = [[] for _ in texts]
        done = 0
        for pixels in self.pixel_batches(selected, self.batches.size):
            rows = with_texts[done : done + len(pixels)]
            batch_scores = self._score_batch(pixels, [texts[i] for i in rows], [compared[i] for i in rows])
            for i, image_scores in zip(rows, batch_scores, strict=True):
                scores[i] = image_scores
            done += len(pixels)
        return scores

    def _score_batch(
        self, pixels: Tensor, texts: Sequence[Sequence[str]], compared: Sequence[int]
    ) -> list[list[Score]]:
        """Scores of images [B, 3, S, S], each with at least one text, in micro-batches."""
        scores: list[list[Score]] = []
        while len(scores) < len(texts):
            remaining = texts[len(scores) :]
            # A micro-batch limits images and texts per pass; the texts determine the memory if they are more.
            limit = max(len(remaining), sum(map(len, remaining[: self.batches.size])))
            scores += self.batches.run_once(
                partial(self._score_first, pixels[len(scores) :], remaining, compared[len(scores) :]), limit
            )
        return scores

    @torch.inference_mode()
    def _score_first(
        self, pixels: Tensor, texts: Sequence[Sequence[str]], compared: Sequence[int], size: int
    ) -> list[list[Score]]:
        """Scores of the first `size` images, with `size` texts per forward pass."""
        pixels, texts = pixels[:size], texts[:size]
        weight = next(self.med.parameters())
        states = self.med.encode_image(normalize(pixels, weight.dtype, weight.device))
        features = self.med.image_feature(states)
        image_of_text = torch.tensor([row for row, image_texts in enumerate(texts) for _ in image_texts])
        ids, mask = self.tokenizer.encode([text for image_texts in texts for text in image_texts], MAX_TOKENS)
        cross = self.med.cross_inputs(states, "encoder", tokens=int(mask.sum()) / len(states))
        order = _spread_over_images(mask.sum(1), image_of_text)
        scores = torch.empty(len(ids), 2, device=weight.device)
        text_features = torch.empty(len(ids), features.shape[1], device=weight.device)
        for rows in order.split(size):
            length, places = int(mask[rows].sum(1).max()), rows.to(weight.device)
            scores[places], text_features[places] = self._score_texts(
                ids[rows, :length], mask[rows, :length], image_of_text[rows], features, cross
            )
        similar = _compare_texts(text_features, [len(of_image) for of_image in texts], compared[:size])
        found = (
            Score(itm_prob, itc_sim, text_sim)
            for (itm_prob, itc_sim), text_sim in zip(scores.tolist(), similar, strict=True)
        )
        return [[next(found) for _ in image_texts] for image_texts in texts]

    def _score_texts(
        self, ids: Tensor, mask: Tensor, image_of_text: Tensor, features: Tensor, cross: CrossInputs
    ) -> tuple[Tensor, Tensor]:
        """ITM probability and ITC cosine, [M, 2], of texts `ids` and `mask` [M, T] that open with [CLS], and
        their ITC features [M, E]."""
        device = features.device
        ids, mask = ids.to(device), mask.to(device)
        text_features = self.med.text_feature(ids, mask)
        cosine = (text_features * features[image_of_text.to(device)]).sum(-1)
        ids[:, 0] = self.itm_id
        matched = self.med.match(ids, mask, cross, image_index=image_of_text).softmax(-1)[:, 1]
        return torch.stack([matched, cosine], dim=1), text_features


def _spread_over_images(lengths: Tensor, image_of_text: Tensor) -> Tensor:
    """Order the texts of a batch so that those of a pass have similar lengths, which avoids padding, and
    different images, which avoids empty slots (`ImageRows`): the shortest text of each image first, then the
    second shortest of each.

    Args:
        lengths: of the texts, [M].
        image_of_text: the image of each, [M].

    Returns:
        Numbers of the texts, [M].
    """
    by_length = lengths.argsort(stable=True)
    images = image_of_text[by_length]
    by_image = images.argsort(stable=True)
    counts = torch.bincount(images)
    first = counts.cumsum(0) - counts
    rank = torch.empty_like(by_image)  # of a text among those of its image
    rank[by_image] = torch.arange(len(images)) - first[images[by_image]]
    return by_length[rank.argsort(stable=True)]


def _compare_texts(features: Tensor, counts: Sequence[int], compared: Sequence[int]) -> list[float | None]:
    """The largest cosine of each compared text and the other texts of its image.

    Args:
        features: of all texts, [M, E], image after image.
        counts: texts of each image; they add up to M.
        compared: of each image, how many of its texts, the first ones, are compared with the other ones.

    Returns:
        One value per text; None for the other texts, and where there are none.
    """
    pairs: list[tuple[int, int]] = []
    start = 0
    for count, leading in zip(counts, compared, strict=True):
        others = range(start + leading, start + count)
        pairs += [(text, other) for text in range(start, start + leading) for other in others]
        start += count
    found: list[float | None] = [None] * len(features)
    if pairs:
        left, right = torch.tensor(pairs, device=features.device).unbind(1)
        cosines = (features[left] * features[right]).sum(-1)
        largest = features.new_full((len(features),), -torch.inf)
        values = largest.scatter_reduce(0, left, cosines, "amax").tolist()
        for text in {text for text, _ in pairs}:
            found[text] = values[text]
    return found
