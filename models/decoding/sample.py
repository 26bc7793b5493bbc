"""NEW FILE."""

import torch
from torch import Tensor

from capfilt.models.decoding.logits import filter_logits
from capfilt.models.decoding.state import Decoding, Generated
from capfilt.models.keyed_random import pick, uniform


def sample_tokens(decoding: Decoding, seeds: Tensor | None, n: int) -> Generated:
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


def _next_tokens(decoding: Decoding, logits: Tensor, new_ids: Tensor, seeds: Tensor) -> Tensor:
    sampling = decoding.sampling
    scores = decoding.adjust(logits, new_ids)
    if sampling.strategy == "greedy":
        return scores.argmax(-1)
    scores = filter_logits(scores, sampling.temperature, sampling.top_k, sampling.top_p)
    return pick(scores.softmax(-1), uniform(seeds, new_ids.shape[1]))
