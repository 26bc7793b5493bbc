"""Cached batch decoding of captions: nucleus sampling, greedy, beam search.

An image's cross-attention keys and values are computed once and shared by all its sequences; the prompt is
read once per image; images whose sequences have all ended leave the batch.

Shapes: B images, A of them still in play, n sequences (or K beams) each, P prompt tokens, L new tokens at
most, V vocabulary, M = A * n sequences, image by image.
"""

import torch
from torch import Tensor

from capfilt.models.config import SamplingConfig
from capfilt.models.decoding.beam import beam_search
from capfilt.models.decoding.sample import sample_tokens
from capfilt.models.decoding.state import Decoding, Generated, Prompt
from capfilt.models.network.med import MED


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
    decoding = Decoding(med, image_states, prompt, sampling, mask)
    if sampling.strategy == "beam":
        return beam_search(decoding, n)
    return sample_tokens(decoding, seeds, n)


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


# ---- nucleus sampling and greedy


# ---- beam search
