"""Judging pairs of images (NLVR2) against a plain implementation in float64, with loops over texts, heads and
tokens.

transformers has no class for NLVR2. The reference implementation below follows salesforce/BLIP 056a169
(models/nlvr_encoder.py, models/blip_nlvr.py). Each image has its own projections of queries, keys and values;
both attend with the states after self-attention. Scores are divided by the square root of the head width.
Each image has its own output projection. The results are merged by their mean in layers 0 to 5 of 12, and by
a linear layer without activation over both, the first image first, in layers 6 to 11. One residual and norm
follow. The head has a ReLU between its two layers.
"""

import math
from dataclasses import replace

import pytest
import torch

from capfilt.models.checkpoints.pretrained_start import load_text_start
from capfilt.models.config import ObjectiveConfig
from capfilt.models.network.med import Questions
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.matcher import Matcher
from capfilt.models.training.objectives import Objective
from tests.models.tiny_med import TEXT, TOKENIZER, build

PAIRS = 3
TEXTS = ["two dogs on the red car near a tree", "a cat", "the large blue boat under a bird"]


@pytest.fixture(scope="module")
def med():
    return build(parts="nlvr").eval()


@pytest.fixture(scope="module")
def images(med):
    """States of the first and of the second image of every pair, each [B, N, W]."""
    pixels = torch.randn(2 * PAIRS, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return med.encode_image(pixels).split(PAIRS)


class PlainJudge:
    """Logits of one sentence and two images, computed with loops."""

    def __init__(self, med):
        self.config = med.config.text
        self.weights = {name: tensor.double() for name, tensor in med.state_dict().items()}

    def linear(self, name, row):
        return self.weights[f"{name}.weight"] @ row + self.weights[f"{name}.bias"]

    def norm(self, name, row):
        spread = (row - row.mean()).square().mean()
        row = (row - row.mean()) / torch.sqrt(spread + self.config.layer_norm_eps)
        return row * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attend(self, name, rows, source):
        """The attention result of every row, head by head."""
        size = self.config.width // self.config.heads
        queries = [self.linear(f"{name}.query", row) for row in rows]
        keys = [self.linear(f"{name}.key", row) for row in source]
        values = [self.linear(f"{name}.value", row) for row in source]
        mixed = []
        for query in queries:
            heads = []
            for start in range(0, self.config.width, size):
                part = slice(start, start + size)
                scores = [float(query[part] @ key[part]) / math.sqrt(size) for key in keys]
                shares = [math.exp(score - max(scores)) for score in scores]
                heads.append(
                    sum(share * value[part] for share, value in zip(shares, values, strict=True))
                    / sum(shares)
                )
            mixed.append(torch.cat(heads))
        return mixed

    def merge(self, name, layer, row0, row1):
        row0, row1 = self.linear(f"{name}.dense0", row0), self.linear(f"{name}.dense1", row1)
        if layer < self.config.depth // 2:
            return (row0 + row1) / 2
        return self.linear(f"{name}.merge_layer", torch.cat([row0, row1]))

    def layer(self, number, rows, first, second):
        name = f"text_encoder.encoder.layer.{number}"
        mixed = self.attend(f"{name}.attention.self", rows, rows)
        projected = [self.linear(f"{name}.attention.output.dense", row) for row in mixed]
        rows = [
            self.norm(f"{name}.attention.output.LayerNorm", new + old)
            for new, old in zip(projected, rows, strict=True)
        ]
        from_first = self.attend(f"{name}.crossattention.self0", rows, first)
        from_second = self.attend(f"{name}.crossattention.self1", rows, second)
        output = f"{name}.crossattention.output"
        rows = [
            self.norm(f"{output}.LayerNorm", self.merge(output, number, row0, row1) + old)
            for row0, row1, old in zip(from_first, from_second, rows, strict=True)
        ]
        hidden = [self.linear(f"{name}.intermediate.dense", row) for row in rows]
        hidden = [row * 0.5 * (1 + torch.erf(row / math.sqrt(2))) for row in hidden]
        return [
            self.norm(f"{name}.output.LayerNorm", self.linear(f"{name}.output.dense", new) + old)
            for new, old in zip(hidden, rows, strict=True)
        ]

    def __call__(self, ids, first, second):
        embeddings = "text_encoder.embeddings"
        rows = [
            self.norm(
                f"{embeddings}.LayerNorm",
                self.weights[f"{embeddings}.word_embeddings.weight"][token]
                + self.weights[f"{embeddings}.position_embeddings.weight"][position],
            )
            for position, token in enumerate(ids.tolist())
        ]
        for number in range(self.config.depth):
            rows = self.layer(number, rows, first.double(), second.double())
        return self.linear("cls_head.2", self.linear("cls_head.0", rows[0]).clamp(min=0))


@torch.no_grad()
@pytest.mark.parametrize("depth", [2, 3])
def test_logits_equal_the_plain_implementation(depth, images):
    med = build(parts="nlvr", text=replace(TEXT, depth=depth)).eval()
    plain, (first, second) = PlainJudge(med), images
    ids, mask = TOKENIZER.encode(TEXTS, 20, first="enc")
    ours = med.judge_pair(ids, mask, med.pair_kv(first, second))
    assert ours.shape == (PAIRS, 2) and ours.dtype == torch.float32 and not mask.all()
    expected = [plain(ids[i, : int(mask[i].sum())], first[i], second[i]) for i in range(PAIRS)]
    torch.testing.assert_close(ours.double(), torch.stack(expected), atol=1e-5, rtol=0)
    assert ours.std(0).min() > 1e-2


@torch.no_grad()
def test_the_order_of_the_images_matters(med, images):
    ids, mask = TOKENIZER.encode(TEXTS, 20, first="enc")
    forward, swapped = (med.judge_pair(ids, mask, med.pair_kv(*pair)) for pair in (images, images[::-1]))
    assert (forward - swapped).abs().min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("index", [[0, 1, 2], [2, 0, 0, 1], [1], [2, 2, 2, 2, 2, 2]], ids=str)
def test_one_pair_serves_many_sentences(med, images, index):
    index = torch.tensor(index)
    ids, mask = TOKENIZER.encode([TEXTS[i % 3] for i in range(len(index))], 20, first="enc")
    shared = med.judge_pair(ids, mask, med.pair_kv(*images), index)
    repeated = med.judge_pair(ids, mask, med.pair_kv(*(states[index] for states in images)))
    torch.testing.assert_close(shared, repeated, atol=1e-6, rtol=1e-5)


def test_only_the_upper_half_has_a_learned_merge_and_all_parameters_get_gradients(med):
    merging = [
        n for n, layer in enumerate(med.text_encoder.layers) if layer.crossattention.output.merge_layer
    ]
    assert merging == [1]
    learner = build(parts="nlvr").train()
    states = learner.encode_image(torch.randn(2, 3, 32, 32))
    ids, mask = TOKENIZER.encode(TEXTS[:1], 20, first="enc")
    logits = learner.judge_pair(ids, mask, learner.pair_kv(states[:1], states[1:]))
    torch.nn.functional.cross_entropy(logits, torch.tensor([1])).backward()
    without_gradient = [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()]
    assert without_gradient == []


def test_unsupported_calls_are_rejected_with_one_line(med, tmp_path):
    ids, kv = torch.zeros(1, 4, dtype=torch.long), []
    for call in (
        lambda: med.match(ids, None, kv),
        lambda: med.text_feature(ids),
        lambda: med.decode(ids, kv),
        lambda: med.answer(ids, Questions(kv=kv, mask_QN=None)),
        lambda: med.cross_kv(torch.zeros(1, 17, 24), "encoder"),
        lambda: med.encode_text(ids, None, kv),
    ):
        with pytest.raises(ValueError, match=r'needs parts "[^\n]*but this model is a "nlvr"$'):
            call()
    with pytest.raises(ValueError, match=r'"nlvr".*no text encoder with'):
        Matcher(med, TOKENIZER)
    with pytest.raises(ValueError, match=r'"nlvr".*no decoder'):
        Captioner(med, TOKENIZER)
    with pytest.raises(ValueError, match='losses itm cannot train a "nlvr"'):
        Objective(med, TOKENIZER, ObjectiveConfig(losses=("itm",)))
    with pytest.raises(ValueError, match='a "nlvr" starts from a pretrained MED'):
        load_text_start(med, tmp_path)
    captioner = build(parts="captioner")
    with pytest.raises(ValueError, match='judge_pair needs parts "nlvr", but this model is a "captioner"'):
        captioner.judge_pair(ids, None, kv)
    with pytest.raises(ValueError, match='pair_kv needs parts "nlvr"'):
        captioner.pair_kv(torch.zeros(1), torch.zeros(1))
