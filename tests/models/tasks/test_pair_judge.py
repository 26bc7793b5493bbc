"""Judging pairs of images: each pair alone and in batches."""

import pytest
import torch
from PIL import Image

from capfilt.models.images.pixels import normalize, to_pixels
from capfilt.models.tasks.options import JudgeOptions
from capfilt.models.tasks.pair_judge import PairJudge
from tests.models.blip_oracle import random_pixels
from tests.models.tiny_med import TOKENIZER, build

SENTENCES = ["two dogs", "a cat on the red boat near a tree", "the car", "blue house", "dog"]


@torch.no_grad()
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_probabilities_are_those_of_each_pair_alone(batch_size):
    med = build(parts="nlvr").eval()
    pixels = random_pixels(10).permute(0, 2, 3, 1).numpy()
    images = [Image.fromarray(each) for each in pixels]
    pairs = list(zip(images[:5], images[5:], strict=True))
    found = PairJudge(med, TOKENIZER, JudgeOptions(batch_size=batch_size), device="cpu").judge(
        pairs, SENTENCES
    )
    for (first, second), sentence, probability in zip(pairs, SENTENCES, found, strict=True):
        ids, _ = TOKENIZER.encode([sentence], 20, first="enc")
        states = [med.encode_image(normalize(to_pixels([each], 32))) for each in (first, second)]
        expected = med.judge_pair(ids, None, med.pair_kv(*states)).softmax(-1)[0, 1]
        assert probability == pytest.approx(float(expected), abs=1e-5)


def test_wrong_uses_are_one_line():
    with pytest.raises(ValueError, match='"vqa" and does not judge pairs of images: use an "nlvr"'):
        PairJudge(build(parts="vqa"), TOKENIZER)
    with pytest.raises(ValueError, match="0 pairs but 1 sentences"):
        PairJudge(build(parts="nlvr").eval(), TOKENIZER, device="cpu").judge([], ["a"])
