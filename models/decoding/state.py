"""What one decoding keeps between tokens: request, attention caches, and the images that are still active.

Shapes: B images, A of them still active, n sequences per image, P prompt tokens, L new tokens at most,
t new tokens so far, V vocabulary, N tokens attended to, W their width, M = A * n sequences, image by image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.decoding.logits import apply_repetition_penalty
from capfilt.models.network.attention import DecoderCache, ImageRows, select_images
from capfilt.models.network.med import MED

SHARE_OF_MAX_TOKENS = 0.5
"""Of `max_new_tokens`, what captions take on average: about 8 tokens of 16."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The start of every sequence, `ids` int64 [P], and the tokens that end and pad sequences."""

    ids: Tensor
    end_id: int
    pad_id: int


@dataclass(frozen=True, kw_only=True)
class GenerationRequest:
    """What to generate for each image."""

    prompt: Prompt
    sampling: SamplingConfig
    n: int = 1
    """Sequences per image."""
    seeds: Tensor | None = None
    """int64 [B * n], image by image: keys of the random draws (`keyed_random.uniform`). Only nucleus sampling
    needs them."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Generated sequences.

    `ids` int64 [B, n, L] are the new tokens: without the prompt, with the end token if it was reached, then
    padding. `logprobs` float32 [B, n] sums the model's log-probabilities of these tokens before filters and
    penalties.
    """

    ids: Tensor
    logprobs: Tensor


class DecodingState:
    """What the cross-attention to the active images needs, and the self-attention cache of their sequences.

    All images have the same number of sequences, stored next to each other, so that they share one copy of
    what they attend to. Therefore a finished sequence stays until its whole image is finished.
    """

    def __init__(
        self, med: MED, image_states: Tensor, request: GenerationRequest, mask: Tensor | None
    ) -> None:
        self.med, self.request, self.mask = med, request, mask
        self.prompt, self.sampling = request.prompt, request.sampling
        self.device = image_states.device
        self.prompt_ids = request.prompt.ids.to(self.device)
        length = self.sampling.max_new_tokens
        sequences = self.sampling.num_beams if self.sampling.strategy == "beam" else request.n
        tokens = len(self.prompt_ids) + sequences * length * SHARE_OF_MAX_TOKENS
        self.cross = med.cross_inputs(image_states, "decoder", tokens)
        self.cache = DecoderCache(len(self.prompt_ids) + length)
        self.images = len(image_states)
        self._set_sequences(1)

    def prefill(self) -> Tensor:
        """Logits [B, V] of the first new token. The prompt is read once per image, for any number of
        sequences."""
        return self.next_logits(self.prompt_ids.expand(self.images, -1))

    def next_logits(self, ids: Tensor) -> Tensor:
        """Append `ids` [M, T] to the cache; returns the float32 logits [M, V] of the token that follows."""
        states = self.med.decode_states(ids, self.cross, self.rows, cache=self.cache)
        return self.med.lm_logits(states[:, -1]).float()

    def expand(self, sequences: int) -> None:
        """Turn the one sequence of each image into so many copies."""
        self.cache.select(torch.arange(self.images, device=self.device).repeat_interleave(sequences))
        self._set_sequences(sequences)

    def process_scores(self, scores: Tensor, new_ids: Tensor) -> Tensor:
        """Apply repetition penalty and minimum length to scores [M, V] of the token after `new_ids` [M, t].

        Scores are logits or log-probabilities.
        """
        length = new_ids.shape[1]
        if self.sampling.penalty_scope == "all":
            new_ids = torch.cat([self.prompt_ids.expand(len(new_ids), -1), new_ids], dim=1)
        scores = apply_repetition_penalty(scores, new_ids, self.sampling.repetition_penalty)
        if length < self.sampling.min_new_tokens:
            scores = scores.clone()
            scores[:, self.prompt.end_id] = -torch.inf
        return scores

    def drop_finished(self, finished: Tensor, step: int) -> Tensor | None:
        """Remove `finished` [A] images and their sequences if that saves time.

        Removing an image copies what the remaining ones attend to (one read, one write). Keeping it reads its
        part in each layer of every remaining step, and computes its text.

        Returns:
            The positions of the remaining images; None if nothing was removed.
        """
        if (step + 1) % sync_interval(self.device):
            return None
        flags = finished.tolist()
        leaving, steps_left = sum(flags), self.sampling.max_new_tokens - step - 1
        staying = len(flags) - leaving
        reads = sum(map(len, self.cross))
        copies = len({id(tensor) for layer in self.cross for tensor in layer})
        if leaving * steps_left * reads <= 2 * staying * copies:
            return None
        kept = torch.tensor(
            [i for i, flag in enumerate(flags) if not flag], dtype=torch.long, device=self.device
        )
        self.images = staying
        if staying:
            self.cross = select_images(self.cross, kept)
            self.mask = None if self.mask is None else self.mask.to(self.device)[kept]
            self.cache.select(self.sequence_rows(kept))
            self._set_sequences(self.sequences)
        return kept

    def sequence_rows(self, images: Tensor) -> Tensor:
        """The rows of the sequences of `images` [A], as int64 [A * n]."""
        return (images[:, None] * self.sequences + torch.arange(self.sequences, device=self.device)).flatten()

    def _set_sequences(self, sequences: int) -> None:
        self.sequences = sequences  # per image
        image_index = torch.arange(self.images).repeat_interleave(sequences)
        self.rows = ImageRows.plan(image_index, len(image_index), self.images, self.device, self.mask)


def sync_interval(device: torch.device) -> int:
    """Steps between checks for finished images.

    On a GPU a check waits for all queued work, which costs more than a few steps with finished sequences.
    """
    return 1 if device.type == "cpu" else 4
