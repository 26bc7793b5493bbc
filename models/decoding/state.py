"""NEW FILE."""

from dataclasses import dataclass

import torch
from torch import Tensor

from capfilt.models.config import SamplingConfig
from capfilt.models.decoding.logits import apply_repetition_penalty
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


def sync_interval(device: torch.device) -> int:
    """How often to ask which images are done. On a GPU the answer waits for all work queued, and a few steps
    with rows that have ended cost less."""
    return 1 if device.type == "cpu" else 4


class Decoding:
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
        if (step + 1) % sync_interval(self.device):
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
