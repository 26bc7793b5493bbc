"""Cached batch decoding of captions: nucleus sampling, greedy, beam search.

An image's cross-attention keys and values are computed once and shared by all its sequences; the prompt is
read once per image; images whose sequences have all ended leave the batch.

Shapes: B images, A of them still in play, n sequences (or K beams) each, P prompt tokens, L new tokens at
most, V vocabulary, M = A * n sequences, image by image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from capfilt.models.config import SamplingConfig
from capfilt.models.decoding.logits import apply_repetition_penalty, filter_logits, pick, uniform
from capfilt.models.network.attention import DecoderCache, ImageRows
from capfilt.models.network.med import MED


@dataclass(frozen=True, kw_only=True)
class Generated:
    """New tokens `ids` int64 [B, n, L]: without the prompt, with the end token where it came, then padding.

    `logprobs` float32 [B, n] sums the model's own log-probabilities of these tokens, before any filter or
    penalty.
    """

    ids: Tensor
    logprobs: Tensor


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What every sequence begins with, `ids` int64 [P], and the tokens that end and fill it."""

    ids: Tensor
    end_id: int
    pad_id: int


def steps_between_looks(device: torch.device) -> int:
    """How often to ask which images are done. On a GPU the answer waits for all work queued, and a few steps
    with rows that have ended cost less."""
    return 1 if device.type == "cpu" else 4


@torch.inference_mode()
def generate(
    med: MED,
    image_states: Tensor,
    prompt: Prompt,
    sampling: SamplingConfig,
    *,
    seeds: Tensor | None = None,
    n: int = 1,
    mask: Tensor | None = None,
) -> Generated:
    """n continuations of the prompt for each of the image states [B, N, W] of `med.encode_image`; of a "vqa",
    answers to the questions whose states [B, N, D] `med.encode_text` gave and whose `mask` [B, N] it was given.

    `seeds` int64 [B * n], image by image, decides nucleus sampling (see `sampling.uniform`); the others need
    none. Beam search returns an image's n best beams, best first, by log-probability per token as BLIP's own
    search. Raises ValueError for lengths, n or seeds that do not fit.
    """
    _check(med, image_states, prompt, sampling, seeds, n)
    if med.config.parts == "vqa" and mask is None:
        raise ValueError(
            "cannot generate: answers need the mask of their questions, whose padding says nothing"
        )
    decoding = _Decoding(med, image_states, prompt, sampling, mask)
    if sampling.strategy == "beam":
        return _search(decoding, n)
    return _sample(decoding, seeds, n)


def _check(
    med: MED, image_states: Tensor, prompt: Prompt, sampling: SamplingConfig, seeds: Tensor | None, n: int
) -> None:
    images = len(image_states)
    if images == 0 or med.training:
        why = "image_states is empty" if images == 0 else "med is in training mode, call med.eval() first"
        raise ValueError(f"cannot generate: {why}")
    limit, length = (med.config.text.max_positions, len(prompt.ids) + sampling.max_new_tokens)
    if length > limit:
        raise ValueError(
            f"the prompt's {len(prompt.ids)} tokens and max_new_tokens {sampling.max_new_tokens} make "
            f"{length}, but the decoder has {limit} positions: lower max_new_tokens"
        )
    most = {"nucleus": n, "greedy": 1, "beam": sampling.num_beams}[sampling.strategy]
    if not 1 <= n <= most:
        raise ValueError(
            f"{n} captions per image asked for; strategy {sampling.strategy!r} gives at least 1 and at most "
            f"{'any number' if sampling.strategy == 'nucleus' else most}"
        )
    if sampling.strategy == "nucleus" and (seeds is None or seeds.shape != (images * n,)):
        given = "none" if seeds is None else f"shape {list(seeds.shape)}"
        raise ValueError(f"nucleus sampling needs seeds of shape [{images * n}] (images x n), got {given}")


class _Decoding:
    """The images in play: their cross-attention K/V, and the self-attention cache of their sequences.

    Every image has equally many sequences, side by side, so that all of them attend to its one copy of K/V;
    hence a sequence that ended stays until its whole image is done.
    """

    def __init__(
        self, med: MED, image_states: Tensor, prompt: Prompt, sampling: SamplingConfig, mask: Tensor | None
    ) -> None:
        self.med, self.sampling, self.prompt, self.mask = med, sampling, prompt, mask
        self.device = image_states.device
        self.prompt_ids = prompt.ids.to(self.device)
        self.cross_kv = med.cross_kv(image_states, which="decoder")
        self.cache = DecoderCache()
        self.images = len(image_states)
        self._lay_out(1)

    def _lay_out(self, sequences: int) -> None:
        self.sequences = sequences  # of each image
        image_index = torch.arange(self.images).repeat_interleave(sequences)
        self.rows = ImageRows.plan(image_index, len(image_index), self.images, self.device, self.mask)

    def read_prompt(self) -> Tensor:
        """Logits [B, V] of the first new token: one pass per image, however many sequences will follow."""
        return self.step(self.prompt_ids.expand(self.images, -1))

    def step(self, ids: Tensor) -> Tensor:
        """Logits [M, V], float32, of the token after `ids` [M, T], which join the cache."""
        states = self.med.decode_states(ids, self.cross_kv, self.rows, cache=self.cache)
        return self.med.lm_logits(states[:, -1]).float()

    def fan_out(self, sequences: int) -> None:
        """Give every image so many sequences, all of which have read what its one has read."""
        self.cache.select(torch.arange(self.images, device=self.device).repeat_interleave(sequences))
        self._lay_out(sequences)

    def adjust(self, scores: Tensor, new_ids: Tensor) -> Tensor:
        """Scores [M, V] (logits or log-probabilities) after `new_ids` [M, t], with penalty and minimum length."""
        step = new_ids.shape[1]
        if self.sampling.penalty_scope == "all":
            new_ids = torch.cat([self.prompt_ids.expand(len(new_ids), -1), new_ids], dim=1)
        scores = apply_repetition_penalty(scores, new_ids, self.sampling.repetition_penalty)
        if step < self.sampling.min_new_tokens:
            scores = scores.clone()
            scores[:, self.prompt.end_id] = -torch.inf
        return scores

    def drop(self, done: Tensor, step: int) -> Tensor | None:
        """Let images that are `done` [A] leave, if it is time and pays: the positions that stay, or None.

        Leaving copies the K/V of those that stay, one read and one write; staying reads those that are done,
        and runs their text, once in each step that is left. Sequences go with their images.
        """
        if (step + 1) % steps_between_looks(self.device):
            return None
        flags = done.tolist()
        leaving, steps_left = sum(flags), self.sampling.max_new_tokens - step - 1
        staying = len(flags) - leaving
        if leaving * steps_left <= 2 * staying:
            return None
        stay = torch.tensor(
            [i for i, flag in enumerate(flags) if not flag], dtype=torch.long, device=self.device
        )
        self.images = staying
        if staying:
            self.cross_kv = [(key[stay], value[stay]) for key, value in self.cross_kv]
            self.mask = None if self.mask is None else self.mask.to(self.device)[stay]
            self.cache.select(self.sequences_of(stay))
            self._lay_out(self.sequences)
        return stay

    def sequences_of(self, images: Tensor) -> Tensor:
        """The rows [A * n] of the sequences of images [A]."""
        return (images[:, None] * self.sequences + torch.arange(self.sequences, device=self.device)).flatten()


# ---- nucleus sampling and greedy


def _sample(decoding: _Decoding, seeds: Tensor | None, n: int) -> Generated:
    prompt, device = decoding.prompt, decoding.device
    images, length = decoding.images, decoding.sampling.max_new_tokens
    seeds = torch.zeros(images * n, dtype=torch.long) if seeds is None else seeds
    seeds = seeds.to(device)
    ids = torch.full((images * n, length), prompt.pad_id, device=device)
    logprobs = torch.zeros(images * n, device=device)
    ended = torch.zeros(images * n, dtype=torch.bool, device=device)
    live = torch.arange(images * n, device=device)  # which row of the results each sequence in play fills

    logits = decoding.read_prompt().repeat_interleave(n, dim=0)
    decoding.fan_out(n)
    for step in range(length):
        tokens = _next_tokens(decoding, logits, ids[live, :step], seeds[live])
        gained = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        over = ended[live]
        ids[live, step] = tokens.masked_fill(over, prompt.pad_id)
        logprobs[live] += gained.masked_fill(over, 0)
        ended[live] = over | (tokens == prompt.end_id)
        if step + 1 == length:
            break
        stay = decoding.drop(ended[live].view(-1, n).all(1), step)
        if stay is not None:
            live = live[decoding.sequences_of(stay)]
            if not decoding.images:
                break
        logits = decoding.step(ids[live, step, None])
    return Generated(ids=ids.view(images, n, length), logprobs=logprobs.view(images, n))


def _next_tokens(decoding: _Decoding, logits: Tensor, new_ids: Tensor, seeds: Tensor) -> Tensor:
    sampling = decoding.sampling
    scores = decoding.adjust(logits, new_ids)
    if sampling.strategy == "greedy":
        return scores.argmax(-1)
    scores = filter_logits(scores, sampling.temperature, sampling.top_k, sampling.top_p)
    return pick(scores.softmax(-1), uniform(seeds, new_ids.shape[1]))


# ---- beam search


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


def _new_beams(decoding: _Decoding, beams: int, score: float) -> _Beams:
    shape = (decoding.images, beams)
    return _Beams(
        ids=torch.full(
            (*shape, decoding.sampling.max_new_tokens), decoding.prompt.pad_id, device=decoding.device
        ),
        scores=torch.full(shape, score, device=decoding.device),
        logprobs=torch.zeros(shape, device=decoding.device),
    )


def _search(decoding: _Decoding, n: int) -> Generated:
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


def _grow(decoding: _Decoding, logits: Tensor, beams: _Beams, step: int) -> tuple[_Beams, Tensor]:
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
