"""NEW FILE."""

from dataclasses import dataclass

import torch
from torch import Tensor

from capfilt.models.decoding.state import Decoding, Generated


@dataclass(frozen=True, kw_only=True)
class _Beams:
    """K hypotheses per image, best first: tokens [A, K, L], the scores that rank them, log-probabilities, [A,
    K]."""

    ids: Tensor
    scores: Tensor
    logprobs: Tensor

    def of(self, images: Tensor) -> "_Beams":
        """All hypotheses of the images [A']."""
        return _Beams(ids=self.ids[images], scores=self.scores[images], logprobs=self.logprobs[images])

    def pick(self, beams: Tensor) -> "_Beams":
        """Of each image, the hypotheses [A, K']."""
        at = torch.arange(len(beams), device=beams.device)[:, None], beams
        return _Beams(ids=self.ids[at], scores=self.scores[at], logprobs=self.logprobs[at])

    def best_with(self, other: "_Beams") -> "_Beams":
        """The K best of these and the other's."""
        both = _Beams(
            ids=torch.cat([self.ids, other.ids], dim=1),
            scores=torch.cat([self.scores, other.scores], dim=1),
            logprobs=torch.cat([self.logprobs, other.logprobs], dim=1),
        )
        return both.pick(both.scores.topk(self.scores.shape[1]).indices)

    def put(self, images: Tensor, beams: "_Beams") -> None:
        """Overwrite the hypotheses of the images [A']."""
        self.ids[images], self.scores[images], self.logprobs[images] = (
            beams.ids,
            beams.scores,
            beams.logprobs,
        )


def _new_beams(decoding: Decoding, beams: int, score: float) -> _Beams:
    shape = (decoding.images, beams)
    return _Beams(
        ids=torch.full(
            (*shape, decoding.sampling.max_new_tokens), decoding.prompt.pad_id, device=decoding.device
        ),
        scores=torch.full(shape, score, device=decoding.device),
        logprobs=torch.zeros(shape, device=decoding.device),
    )


def beam_search(decoding: Decoding, n: int) -> Generated:
    """Beam search by the rules of transformers (early_stopping False, length penalty 1), image by image.

    A finished caption's score is its log-probability per token, end token included. An image is done when its
    best open beam, ended here, would score no better than the worst of its K finished captions.
    """
    beams, length = decoding.sampling.num_beams, decoding.sampling.max_new_tokens
    result = _new_beams(decoding, beams, -torch.inf)
    live = torch.arange(decoding.images, device=decoding.device)
    finished, open_beams = result.of(live), _new_beams(decoding, 1, 0.0)
    done = torch.zeros_like(live, dtype=torch.bool)

    logits = decoding.read_prompt()
    for step in range(length):
        grown, parents = _grow(decoding, logits, open_beams, step)
        ends = (grown.ids[:, :, step] == decoding.prompt.end_id) | (step + 1 == length)
        finished = finished.best_with(_ended(grown, ends & ~done[:, None], step + 1, beams))
        if step + 1 == length:
            break
        scores, order = grown.scores.masked_fill(ends, -torch.inf).topk(beams)
        open_beams, parents = grown.pick(order), parents.gather(1, order)
        done = done | (scores[:, 0] / (step + 1) <= finished.scores[:, -1])
        if step == 0:
            decoding.fan_out(beams)  # every beam grew from the image's only one
        else:
            first_rows = torch.arange(decoding.images, device=decoding.device)[:, None] * beams
            decoding.cache.select((first_rows + parents).flatten())
        stay = decoding.drop(done, step)
        if stay is not None:
            result.put(live, finished)
            live, done = live[stay], done[stay]
            finished, open_beams = finished.of(stay), open_beams.of(stay)
            if not decoding.images:
                break
        logits = decoding.step(open_beams.ids[:, :, step].reshape(-1, 1))
    result.put(live, finished)
    return Generated(ids=result.ids[:, :n], logprobs=result.logprobs[:, :n])


def _grow(decoding: Decoding, logits: Tensor, beams: _Beams, step: int) -> tuple[_Beams, Tensor]:
    """The 2K best ways to lengthen any beam of an image by one token, and the beam [A, 2K] each grew from.

    2K, since at most K of them can be ends: K that go on always remain.
    """
    images, count = beams.scores.shape
    logprobs = logits.log_softmax(-1)
    scores = decoding.adjust(logprobs, beams.ids[:, :, :step].flatten(0, 1))
    scores = (scores.view(images, count, -1) + beams.scores[:, :, None]).flatten(1)
    vocabulary = logits.shape[-1]
    top, where = scores.topk(2 * decoding.sampling.num_beams)
    parents, tokens = where // vocabulary, where % vocabulary
    grown = beams.pick(parents)
    grown.ids[:, :, step] = tokens
    gained = logprobs.view(images, -1).gather(1, where)
    return _Beams(ids=grown.ids, scores=top, logprobs=grown.logprobs + gained), parents


def _ended(grown: _Beams, ends: Tensor, length: int, beams: int) -> _Beams:
    """Those of the first K hypotheses that end, scored per token; the others at -inf."""
    scores = (grown.scores / length).masked_fill(~ends, -torch.inf)
    return _Beams(ids=grown.ids[:, :beams], scores=scores[:, :beams], logprobs=grown.logprobs[:, :beams])
