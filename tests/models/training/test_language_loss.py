"""The loss of language modeling in chunks, compared with that of all logits at a time."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from capfilt.models.training import language_loss
from capfilt.models.training.language_loss import CHUNK, token_losses

WIDTH, WORDS = 8, 50


class Head(nn.Module):
    """A vocabulary projection that notes how many tokens it has got at a time."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.sizes = nn.Linear(WIDTH, WORDS), []

    def forward(self, states):
        self.sizes.append(len(states))
        return self.linear(states)


def losses_and_gradients(function, tokens, smoothing):
    head = Head()
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(tokens, WIDTH, generator=generator).requires_grad_()
    targets = torch.randint(0, WORDS, (tokens,), generator=generator)
    weights = torch.rand(tokens, generator=generator)
    losses = function(head, states, targets, smoothing)
    (losses * weights).sum().backward()
    return head.sizes, [losses.detach(), states.grad, head.linear.weight.grad, head.linear.bias.grad]


def whole(head, states, targets, smoothing):
    logits = head(states).float()
    return F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("tokens", [0, 1, 9, 10, 11, 20, 34])
def test_losses_and_gradients_are_those_of_all_logits_at_a_time(monkeypatch, tokens, smoothing):
    monkeypatch.setattr(language_loss, "CHUNK", 10)
    sizes, found = losses_and_gradients(token_losses, tokens, smoothing)
    _, expected = losses_and_gradients(whole, tokens, smoothing)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)
    assert max(sizes) <= 10 and (len(sizes) == 1) == (tokens <= 10)


@pytest.mark.parametrize("tokens", [CHUNK, CHUNK + 1])
def test_a_batch_that_fits_is_computed_once(tokens):
    sizes, _ = losses_and_gradients(token_losses, tokens, 0.1)
    # Chunks are computed forward, and again in the backward pass.
    assert sorted(sizes) == ([CHUNK] if tokens == CHUNK else [1, 1, CHUNK, CHUNK])


def test_in_bfloat16_the_losses_are_float32():
    head, states = Head(), torch.randn(5, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = token_losses(head, states, torch.zeros(5, dtype=torch.int64), 0.0)
    assert losses.dtype == torch.float32
