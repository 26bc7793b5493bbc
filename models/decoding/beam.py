"""Beam search. Shapes are those of `state.py`, with K beams per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from capfilt.models.decoding.state import DecodingState, Generated


def beam_search(state: DecodingState) -> Generated:
    """The n best hypotheses per image, best first, by the rules of transformers (early_stopping False, length
    penalty 1).

    The score of a finished hypothesis is its log-probability per token, end token included. An image is
    finished when its best open beam, ended at the current length, would not score higher than the worst of
    its K finished hypotheses.
    """
    beams, length = state.sampling.num_beams, state.sampling.max_new_tokens
    result = _empty_beams(state, beams, -torch.inf)
    active = torch.arange(
        state.images, device=state.device
    )  # the result row of each image still in the batch
    finished, open_beams = result.of_images(active), _empty_beams(state, 1, 0.0)
    image_finished = torch.zeros_like(active, dtype=torch.bool)

    logits = state.prefill()
    for step in range(length):
        extended, parents = _extend_beams(state, logits, open_beams, step)
        ends = (extended.ids[:, :, step] == state.prompt.end_id) | (step + 1 == length)
        newly_finished = _finished_beams(extended, ends & ~image_finished[:, None], step + 1, beams)
        finished = finished.merge_best(newly_finished)
        if step + 1 == length:
            break
        scores, order = extended.scores.masked_fill(ends, -torch.inf).topk(beams)
        open_beams, parents = extended.select(order), parents.gather(1, order)
        image_finished = image_finished | (scores[:, 0] / (step + 1) <= finished.scores[:, -1])
        if step == 0:
            state.expand(beams)  # until now each image had one beam
        else:
            first_rows = torch.arange(state.images, device=state.device)[:, None] * beams
            state.cache.select((first_rows + parents).flatten())
        kept = state.drop_finished(image_finished, step)
        if kept is not None:
            result.write(active, finished)
            active, image_finished = active[kept], image_finished[kept]
            finished, open_beams = finished.of_images(kept), open_beams.of_images(kept)
            if not state.images:
                break
        logits = state.next_logits(open_beams.ids[:, :, step].reshape(-1, 1))
    result.write(active, finished)
    n = state.request.n
    return Generated(ids=result.ids[:, :n], logprobs=result.logprobs[:, :n])


@dataclass(frozen=True, kw_only=True)
class Beams:
    """K hypotheses per image, best first.

    `ids` [A, K, L] are new tokens, `scores` [A, K] rank the hypotheses, `logprobs` [A, K] are the sums of
    their tokens' log-probabilities.
    """

    ids: Tensor
    scores: Tensor
    logprobs: Tensor

    def of_images(self, images: Tensor) -> Beams:
        """All hypotheses of the images at positions `images` [A']."""
        return Beams(ids=self.ids[images], scores=self.scores[images], logprobs=self.logprobs[images])

    def select(self, beams: Tensor) -> Beams:
        """The hypotheses at positions `beams` [A, K'] of each image."""
        at = torch.arange(len(beams), device=beams.device)[:, None], beams
        return Beams(ids=self.ids[at], scores=self.scores[at], logprobs=self.logprobs[at])

    def merge_best(self, other: Beams) -> Beams:
        """The K best of these hypotheses and the other ones."""
        both = Beams(
            ids=torch.cat([self.ids, other.ids], dim=1),
            scores=torch.cat([self.scores, other.scores], dim=1),
            logprobs=torch.cat([self.logprobs, other.logprobs], dim=1),
        )
        return both.select(both.scores.topk(self.scores.shape[1]).indices)

    def write(self, images: Tensor, beams: Beams) -> None:
        """Overwrite the hypotheses of the images at positions `images` [A'] with `beams`."""
        self.ids[images] = beams.ids
        self.scores[images] = beams.scores
        self.logprobs[images] = beams.logprobs


def _empty_beams(state: DecodingState, beams: int, score: float) -> Beams:
    shape = (state.images, beams)
    padding = torch.full((*shape, state.sampling.max_new_tokens), state.prompt.pad_id, device=state.device)
    return Beams(
        ids=padding,
        scores=torch.full(shape, score, device=state.device),
        logprobs=torch.zeros(shape, device=state.device),
    )


def _extend_beams(state: DecodingState, logits: Tensor, beams: Beams, step: int) -> tuple[Beams, Tensor]:
    """The 2K best extensions of an image's beams by one token, and the parent beam [A, 2K] of each.

    At most K of the 2K can end, one per beam, so at least K open ones remain.
    """
    images, count = beams.scores.shape
    logprobs = logits.log_softmax(-1)
    scores = state.process_scores(logprobs, beams.ids[:, :, :step].flatten(0, 1))
    scores = (scores.view(images, count, -1) + beams.scores[:, :, None]).flatten(1)
    vocabulary = logits.shape[-1]
    best_scores, best = scores.topk(2 * state.sampling.num_beams)
    parents, tokens = best // vocabulary, best % vocabulary
    extended = beams.select(parents)
    extended.ids[:, :, step] = tokens
    token_logprobs = logprobs.view(images, -1).gather(1, best)
    return Beams(ids=extended.ids, scores=best_scores, logprobs=extended.logprobs + token_logprobs), parents


def _finished_beams(extended: Beams, ends: Tensor, length: int, beams: int) -> Beams:
    """The first K extended beams, scored per token where `ends` [A, 2K] is set, and -inf elsewhere."""
    scores = (extended.scores / length).masked_fill(~ends, -torch.inf)
    return Beams(ids=extended.ids[:, :beams], scores=scores[:, :beams], logprobs=extended.logprobs[:, :beams])
