"""Generates captions, or answers to questions, from image states.

The keys and values that the decoder attends to are computed once per image and shared by all of its
sequences. The prompt is read once per image. Images whose sequences are all finished leave the batch.
"""

import torch
from torch import Tensor

from capfilt.models.decoding.beam import beam_search
from capfilt.models.decoding.sample import sample_tokens
from capfilt.models.decoding.state import DecodingState, Generated, GenerationRequest
from capfilt.models.network.med import MED


@torch.inference_mode()
def generate(
    med: MED, image_states: Tensor, request: GenerationRequest, *, mask: Tensor | None = None
) -> Generated:
    """Continue the prompt `request.n` times for each of B images.

    Beam search returns the n best beams of an image, best first, by log-probability per token as in BLIP.

    Args:
        med: the model, in eval mode.
        image_states: [B, N, W] from `med.encode_image`. For a "vqa": the states [B, N, D] of B questions from
            `med.encode_text`; the result are answers.
        request: prompt, sampling, and number of sequences.
        mask: [B, N] of a "vqa": the mask that `med.encode_text` was given.

    Raises:
        ValueError: lengths, number of sequences or seeds do not fit, or the mask of a "vqa" is missing.
    """
    _check_request(med, image_states, request)
    if med.config.parts == "vqa" and mask is None:
        raise ValueError(
            "cannot generate answers without the questions' mask: pass the mask given to encode_text"
        )
    state = DecodingState(med, image_states, request, mask)
    return beam_search(state) if request.sampling.strategy == "beam" else sample_tokens(state)


def _check_request(med: MED, image_states: Tensor, request: GenerationRequest) -> None:
    images, n, sampling = len(image_states), request.n, request.sampling
    if images == 0:
        raise ValueError("cannot generate: image_states is empty")
    if med.training:
        raise ValueError("cannot generate: med is in training mode, call med.eval() first")
    prompt_length, positions = len(request.prompt.ids), med.config.text.max_positions
    if prompt_length + sampling.max_new_tokens > positions:
        raise ValueError(
            f"the prompt's {prompt_length} tokens and max_new_tokens {sampling.max_new_tokens} add up to "
            f"{prompt_length + sampling.max_new_tokens}, but the decoder has {positions} positions: "
            "lower max_new_tokens"
        )
    limit = {"nucleus": n, "greedy": 1, "beam": sampling.num_beams}[sampling.strategy]
    if not 1 <= n <= limit:
        allowed = "at least 1" if sampling.strategy == "nucleus" else f"1 to {limit}"
        raise ValueError(
            f"cannot generate {n} sequences per image: strategy {sampling.strategy!r} allows {allowed}"
        )
    seeds = request.seeds
    if sampling.strategy == "nucleus" and (seeds is None or seeds.shape != (images * n,)):
        given = "none" if seeds is None else f"shape {list(seeds.shape)}"
        raise ValueError(f"nucleus sampling needs seeds of shape [{images * n}] (images x n), got {given}")
