"""Ranks texts for images, images for texts, and names of classes for images (zero-shot classification).

ITC compares everything with everything; if asked to, ITM then ranks the k best again. A candidate is one
text, or several prompts about one thing: then its ITC feature is the normalized mean of theirs, and ITM's
log-odds are averaged.

Shapes: B images, C candidates, U prompts of all candidates, E embedding dimension, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.caption_text import MAX_WORDS, normalize_caption
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.options import MAX_TOKENS, MatcherOptions
from capfilt.models.tasks.placement import Images, TaskModel


@dataclass(frozen=True)
class Ranked:
    """An item at its place of a ranking."""

    index: int
    """The number of the candidate, or of the image."""
    itc_sim: float
    """Cosine similarity of the ITC features of image and candidate."""
    itm_prob: float | None = None
    """Probability of "matched"; None where ITM did not score the pair."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Encoded candidates; made by `Ranker.encode`."""

    of_prompt: Tensor
    """The candidate of each prompt, [U]."""
    ids: Tensor
    """Tokens of the prompts, [U, T], opening with the first token that ITM reads."""
    mask: Tensor
    """[U, T]."""
    features: Tensor
    """ITC features, of unit length, float32 [C, E] on the host."""

    def __len__(self) -> int:
        return len(self.features)


class Ranker(TaskModel[MatcherOptions]):
    """Ranks candidates and images. Texts are normalized as in BLIP's training, and cut at `MAX_TOKENS`."""

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
        """Prepare a model for ranking; it is moved, cast and put in eval mode in place.

        Raises:
            ValueError: the model has no text encoder with the heads of ITM and ITC.
        """
        if not med.has_encoder:
            raise ValueError(
                f'the model is a "{med.config.parts}" and has no text encoder with the heads of ITM and ITC: '
                'use a "filter" or a "pretrain"'
            )
        super().__init__(med, tokenizer, options, device=device)
        self.batches = MicroBatches(self.options.batch_size, unit="images or texts")

    @torch.inference_mode()
    def encode(self, candidates: Sequence[str | Sequence[str]]) -> Candidates:
        """Encode candidates, each a text or several prompts.

        Raises:
            ValueError: there are none, or one has no prompt.
        """
        prompts = [[each] if isinstance(each, str) else list(each) for each in candidates]
        if not prompts or not all(prompts):
            raise ValueError("nothing to rank: give at least one candidate, each with a text")
        texts = [normalize_caption(text, MAX_WORDS) for each in prompts for text in each]
        of_prompt = torch.tensor([number for number, each in enumerate(prompts) for _ in each])
        features = torch.stack(self.batches.run(partial(self._encode_texts, texts), len(texts)))
        total = torch.zeros(len(prompts), features.shape[1]).index_add_(0, of_prompt, features)
        ids, mask = self.tokenizer.encode(texts, self._max_tokens, first=self.options.itm_token)
        return Candidates(of_prompt=of_prompt, ids=ids, mask=mask, features=F.normalize(total, dim=-1))

    def rank(
        self, images: Images, candidates: Candidates, *, k: int = 0, top: int | None = None
    ) -> list[list[Ranked]]:
        """The best candidates of each image, best first.

        Args:
            k: the best candidates by ITC that ITM ranks again; 0 for none. The others follow them by ITC.
            top: candidates to return; None returns all.
        """
        ranked: list[list[Ranked]] = []
        limit = len(candidates) if top is None else top
        for pixels in self.pixel_batches(images, self.batches.size):
            work = partial(self._rank_slice, pixels, candidates, k, limit)
            ranked += self.batches.run(work, len(pixels))
        return ranked

    def find(
        self, images: Images, candidates: Candidates, *, k: int = 0, top: int | None = None
    ) -> list[list[Ranked]]:
        """The best images of each candidate, best first; the arguments are those of `rank`.

        With k, images among the k best of a candidate are encoded twice.
        """
        cosine = self.similarities(images, candidates).T
        best = cosine.sort(dim=1, descending=True, stable=True).indices
        odds = torch.full(cosine.shape, torch.nan)
        if k:
            wanted = torch.zeros(cosine.shape, dtype=torch.bool).scatter_(1, best[:, :k], True)
            used = wanted.any(dim=0).nonzero()[:, 0]
            chosen = images[used] if isinstance(images, Tensor) else [images[i] for i in used.tolist()]
            odds[:, used] = self.match(chosen, candidates, wanted[:, used].T).T
        kept = best if top is None else best[:, : max(k, top)]
        return [
            order(numbers, of_candidate, scores)[:top]
            for numbers, of_candidate, scores in zip(kept, cosine, odds, strict=True)
        ]

    def similarities(self, images: Images, candidates: Candidates) -> Tensor:
        """Cosine similarities of the ITC features, float32 [B, C] on the host."""
        found: list[Tensor] = []
        for pixels in self.pixel_batches(images, self.batches.size):
            found += self.batches.run(partial(self._compare_slice, pixels, candidates), len(pixels))
        return torch.stack(found) if found else torch.empty(0, len(candidates))

    def match(self, images: Images, candidates: Candidates, pairs: Tensor) -> Tensor:
        """ITM's log-odds of "matched", float32 [B, C] on the host; NaN for pairs that are not wanted.

        Args:
            pairs: bool [B, C], the wanted pairs.
        """
        found: list[Tensor] = []
        for pixels in self.pixel_batches(images, self.batches.size):
            wanted = pairs[len(found) : len(found) + len(pixels)]
            found += self.batches.run(partial(self._match_slice, pixels, candidates, wanted), len(pixels))
        return torch.stack(found) if found else torch.empty(0, len(candidates))

    @property
    def _max_tokens(self) -> int:
        return min(MAX_TOKENS, self.med.config.text.max_positions)

    def _encode_texts(self, texts: Sequence[str], rows: slice) -> list[Tensor]:
        ids, mask = self.tokenizer.encode(list(texts[rows]), self._max_tokens, first="cls")
        device = next(self.med.parameters()).device
        return list(self.med.text_feature(ids.to(device), mask.to(device)).float().cpu())

    def _encode_images(self, pixels: Tensor) -> Tensor:
        weight = next(self.med.parameters())
        return self.med.encode_image(normalize(pixels, weight.dtype, weight.device))

    @torch.inference_mode()
    def _compare_slice(self, pixels: Tensor, candidates: Candidates, rows: slice) -> list[Tensor]:
        features = self.med.image_feature(self._encode_images(pixels[rows])).float().cpu()
        return list(features @ candidates.features.T)

    @torch.inference_mode()
    def _match_slice(
        self, pixels: Tensor, candidates: Candidates, pairs: Tensor, rows: slice
    ) -> list[Tensor]:
        return list(self._log_odds(self._encode_images(pixels[rows]), candidates, pairs[rows]))

    @torch.inference_mode()
    def _rank_slice(
        self, pixels: Tensor, candidates: Candidates, k: int, top: int, rows: slice
    ) -> list[list[Ranked]]:
        states = self._encode_images(pixels[rows])
        cosine = self.med.image_feature(states).float().cpu() @ candidates.features.T
        best = cosine.sort(dim=1, descending=True, stable=True).indices[:, : max(k, top)]
        odds = torch.full(cosine.shape, torch.nan)
        if k:
            pairs = torch.zeros(cosine.shape, dtype=torch.bool).scatter_(1, best[:, :k], True)
            odds = self._log_odds(states, candidates, pairs)
        return [
            order(numbers, of_image, scores)[:top]
            for numbers, of_image, scores in zip(best, cosine, odds, strict=True)
        ]

    def _log_odds(self, states: Tensor, candidates: Candidates, pairs: Tensor) -> Tensor:
        """As `match`, of images that are encoded."""
        cross_kv = self.med.cross_kv(states, which="encoder")
        image, prompt = pairs[:, candidates.of_prompt].nonzero(as_tuple=True)
        total, count = torch.zeros(pairs.shape), torch.zeros(pairs.shape)
        size = self.batches.size
        for of_image, of_text in zip(image.split(size), prompt.split(size), strict=True):
            length = int(candidates.mask[of_text].sum(dim=1).max())
            ids = candidates.ids[of_text, :length].to(states.device)
            mask = candidates.mask[of_text, :length].to(states.device)
            logits = self.med.match(ids, mask, cross_kv, image_index=of_image).cpu()
            place = (of_image, candidates.of_prompt[of_text])
            total.index_put_(place, logits[:, 1] - logits[:, 0], accumulate=True)
            count.index_put_(place, torch.ones(len(of_text)), accumulate=True)
        return total / count  # 0 / 0 is NaN


def order(best: Tensor, cosine: Tensor, odds: Tensor) -> list[Ranked]:
    """A ranking: the items that ITM has scored by its log-odds, then the others; ties by ITC.

    Args:
        best: numbers of the items, best first by ITC.
        cosine: ITC similarity of every item.
        odds: ITM's log-odds of every item; NaN where there are none.
    """
    numbers = best.tolist()
    of_number = dict(zip(numbers, odds[best].tolist(), strict=True))
    # sorted is stable, and NaN differs from itself.
    ranked = sorted(numbers, key=lambda n: (0, -of_number[n]) if of_number[n] == of_number[n] else (1, 0.0))
    probabilities = odds.sigmoid()
    return [
        Ranked(n, float(cosine[n]), float(probabilities[n]) if of_number[n] == of_number[n] else None)
        for n in ranked
    ]


def fill_templates(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """The prompts of each class: every template with the name in place of `{}`.

    Raises:
        ValueError: a template has no `{}`.
    """
    for template in templates:
        if "{}" not in template:
            raise ValueError(
                f'template {template!r} has no {{}} for the name of the class, as in "a picture of {{}}"'
            )
    return [[template.replace("{}", name) for template in templates] for name in names]
