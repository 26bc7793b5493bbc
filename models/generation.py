"""Cached batch decoding of captions: nucleus sampling, greedy, beam search.

An image's cross-attention keys and values are computed once and shared by all its sequences; the prompt is read once
per image; images whose sequences have all ended leave the batch.

Shapes: B images, A of them still in play, n sequences (or beams) each, V vocabulary, L new tokens at most.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from models.med import MED, DecoderCache
from models.sampling import SamplingConfig, apply_repetition_penalty, filter_logits, pick, uniform

# How often the host looks which images are done. On a GPU a look waits for all queued work, and a decoding step
# queues more kernels than a small batch takes to run, so some steps of finished rows are cheaper than a look at each.
_LOOK_EVERY = {"cpu": 1, "cuda": 4}


@dataclass(frozen=True, kw_only=True)
class Generated:
    """New tokens `ids` int64 [B, n, L]: without the prompt, with the end token where it came, then padding.

    `logprobs` float32 [B, n] sums the model's own log-probabilities of these tokens, before any filter or penalty.
    """

    ids: Tensor
    logprobs: Tensor


@torch.inference_mode()
def generate(
    med: MED,
    image_states: Tensor,
    prompt_ids: Tensor,
    sampling: SamplingConfig,
    *,
    end_id: int,
    pad_id: int,
    seeds: Tensor | None = None,
    n: int = 1,
) -> Generated:
    """n continuations of the prompt `prompt_ids` int64 [P] for each of the image states [B, N, D].

    `seeds` int64 [B * n], image by image, decides nucleus sampling (see `sampling.uniform`); the others need none.
    Beam search returns an image's n best beams, best first.
    """
    _check(med, image_states, prompt_ids, sampling, seeds, n)
    if image_states.shape[0] == 0:
        shape = (0, n, sampling.max_new_tokens)
        empty = torch.full(shape, pad_id, device=image_states.device)
        return Generated(ids=empty, logprobs=empty[:, :, 0].float())
    task = _Task(prompt_ids=prompt_ids.to(image_states.device), sampling=sampling, end_id=end_id, pad_id=pad_id)
    decoding = _Decoding(med, image_states)
    if sampling.strategy == "beam":
        return _search(decoding, task, n)
    return _sample(decoding, task, seeds, n)


def _check(
    med: MED, image_states: Tensor, prompt_ids: Tensor, sampling: SamplingConfig, seeds: Tensor | None, n: int
) -> None:
    limit, length = med.config.text.max_positions, len(prompt_ids) + sampling.max_new_tokens
    if length > limit:
        raise ValueError(
            f"the prompt's {len(prompt_ids)} tokens and max_new_tokens {sampling.max_new_tokens} make {length}; "
            f"the decoder has {limit} positions: lower max_new_tokens"
        )
    most = {"nucleus": n, "greedy": 1, "beam": sampling.num_beams}[sampling.strategy]
    if not 1 <= n <= most:
        raise ValueError(
            f"n is {n} captions per image; strategy {sampling.strategy!r} gives 1 to "
            f"{'any number' if sampling.strategy == 'nucleus' else most}"
        )
    if sampling.strategy == "nucleus" and (seeds is None or seeds.shape != (len(image_states) * n,)):
        raise ValueError(
            f"nucleus sampling needs one seed per sequence: seeds has shape {None if seeds is None else [*seeds.shape]},"
            f" {len(image_states)} images times {n} captions need [{len(image_states) * n}]"
        )


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What the sequences of a batch have in common."""

    prompt_ids: Tensor
    sampling: SamplingConfig
    end_id: int
    pad_id: int

    def adjust(self, scores: Tensor, new_ids: Tensor, step: int) -> Tensor:
        """Scores [M, V] (logits or log-probabilities) after penalty and minimum length; `new_ids` [M, step]."""
        if self.sampling.penalty_scope == "all":
            new_ids = torch.cat([self.prompt_ids.expand(len(new_ids), -1), new_ids], dim=1)
        scores = apply_repetition_penalty(scores, new_ids, self.sampling.repetition_penalty)
        if step < self.sampling.min_new_tokens:
            scores = scores.clone()
            scores[:, self.end_id] = -torch.inf
        return scores


class _Decoding:
    """The images in play: their cross-attention K/V, and the self-attention cache of their sequences.

    Every image has the same number of sequences, next to each other: so attention reads one image's K/V for all of
    them, and a done sequence stays until its whole image is done.
    """

    def __init__(self, med: MED, image_states: Tensor) -> None:
        self.med = med
        self.cross_kv = med.cross_kv(image_states, which="decoder")
        self.cache = DecoderCache()
        self.images = len(image_states)
        self.look_every = _LOOK_EVERY.get(image_states.device.type, 4)

    def read_prompt(self, prompt_ids: Tensor) -> Tensor:
        """Logits [B, V] of the first new token: one pass per image, however many sequences will follow."""
        return self.step(prompt_ids.expand(self.images, -1))

    def step(self, ids: Tensor) -> Tensor:
        """Logits [M, V] float32 of the token after `ids` [M, T], which join the cache."""
        sequences = torch.arange(len(ids), device=ids.device)
        image_index = sequences // (len(ids) // self.images)
        logits = self.med.decode(ids, self.cross_kv, image_index=image_index, cache=self.cache)
        return logits[:, -1].float()

    def fan_out(self, sequences: int) -> None:
        """Give every image so many sequences, all of which have read what its one sequence read."""
        rows = torch.arange(self.images, device=self.cross_kv[0][0].device)
        self.cache.select(rows.repeat_interleave(sequences))

    def looks_at(self, step: int) -> bool:
        return (step + 1) % self.look_every == 0

    def keep(self, done: Tensor, steps_left: int) -> Tensor | None:
        """Drop the images that are `done` [A] if it pays: the positions kept [A'], or None where all stay.

        Dropping copies the K/V of those that stay (read and written once); else each step reads the done ones' too.
        """
        flags = done.tolist()
        leaving = sum(flags)
        if leaving < len(flags) and leaving * steps_left <= 2 * (len(flags) - leaving):
            return None
        kept = torch.tensor([i for i, flag in enumerate(flags) if not flag], dtype=torch.long, device=done.device)
        sequences = torch.arange(self.images, device=done.device)
        self.cross_kv = [(k[kept], v[kept]) for k, v in self.cross_kv]
        del sequences
        self.images = len(kept)
        return kept


# ---- nucleus sampling and greedy


def _sample(decoding: _Decoding, task: _Task, seeds: Tensor | None, n: int) -> Generated:
    raise NotImplementedError


def _search(decoding: _Decoding, task: _Task, n: int) -> Generated:
    raise NotImplementedError
