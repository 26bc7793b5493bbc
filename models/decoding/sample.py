"""Token-by-token decoding: nucleus sampling and greedy decoding. Shapes are those of `state.py`."""

import torch
from torch import Tensor

from capfilt.models.decoding.logits import filter_candidates
from capfilt.models.decoding.state import DecodingState, Generated
from capfilt.models.keyed_random import sample_categorical, uniform


def sample_tokens(state: DecodingState) -> Generated:
    """Generate n sequences per image, one token of every sequence per step."""
    prompt, device = state.prompt, state.device
    images, n, length = state.images, state.request.n, state.sampling.max_new_tokens
    seeds = state.request.seeds
    seeds = torch.zeros(images * n, dtype=torch.long) if seeds is None else seeds
    seeds = seeds.to(device)
    ids = torch.full((images * n, length), prompt.pad_id, device=device)
    logprobs = torch.zeros(images * n, device=device)
    finished = torch.zeros(images * n, dtype=torch.bool, device=device)
    active = torch.arange(images * n, device=device)  # the result row of each sequence still in the batch

    logits = state.prefill().repeat_interleave(n, dim=0)
    state.expand(n)
    for step in range(length):
        tokens = _choose_tokens(state, logits, ids[active, :step], seeds[active])
        token_logprobs = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        was_finished = finished[active]
        ids[active, step] = tokens.masked_fill(was_finished, prompt.pad_id)
        logprobs[active] += token_logprobs.masked_fill(was_finished, 0)
        finished[active] = was_finished | (tokens == prompt.end_id)
        if step + 1 == length:
            break
        kept = state.drop_finished(finished[active].view(-1, n).all(1), step)
        if kept is not None:
            active = active[state.sequence_rows(kept)]
            if not state.images:
                break
        logits = state.next_logits(ids[active, step, None])
    return Generated(ids=ids.view(images, n, length), logprobs=logprobs.view(images, n))


def _choose_tokens(state: DecodingState, logits: Tensor, new_ids: Tensor, seeds: Tensor) -> Tensor:
    """The next token of each sequence, int64 [M]."""
    sampling = state.sampling
    scores = state.process_scores(logits, new_ids)
    if sampling.strategy == "greedy":
        return scores.argmax(-1)
    kept, tokens = filter_candidates(scores, sampling.temperature, sampling.top_k, sampling.top_p)
    drawn = sample_categorical(kept.softmax(-1), uniform(seeds, new_ids.shape[1]))
    return tokens.gather(1, drawn[:, None])[:, 0]
