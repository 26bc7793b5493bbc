"""Caption metrics against values computed by hand or by other code."""

import math
from collections import Counter
from random import Random

import numpy as np
import pytest

from capfilt.pipeline.evaluation.caption_metrics import compute_caption_metrics


def test_bleu_and_rouge_equal_values_computed_by_hand() -> None:
    found = compute_caption_metrics({1: "The cat sat on the mat."}, {1: ["the cat is on the mat"]})
    # 5 of 6 words, 3 of 5 pairs and 1 of 4 triples are right; the longest common subsequence has 5 words.
    assert found["bleu@1"] == pytest.approx(100 * 5 / 6)
    assert found["bleu@2"] == pytest.approx(100 * math.sqrt(5 / 6 * 3 / 5))
    assert found["bleu@3"] == pytest.approx(50)
    assert found["bleu@4"] == pytest.approx(0, abs=0.1)
    assert found["rouge_l"] == pytest.approx(100 * 5 / 6)
    short = compute_caption_metrics({1: "a cat"}, {1: ["a cat sat here"]})
    assert short["bleu@1"] == pytest.approx(100 * math.exp(1 - 4 / 2)), "brevity penalty"


def cider_d(candidates: dict[int, str], references: dict[int, list[str]]) -> float:
    """CIDEr-D by its definition (Vedantam et al. 2015, arXiv 1411.5726, sections 4 and 5.2).

    The length in the Gaussian is the number of bigrams, as in the published implementation.
    """
    means = []
    for n in (1, 2, 3, 4):

        def grams(text: str, n: int = n) -> Counter[tuple[str, ...]]:
            words = text.split()
            return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

        seen = [set().union(*(grams(text) for text in texts)) for texts in references.values()]
        vocabulary = sorted(set().union(*seen, *(grams(text) for text in candidates.values())))
        frequency = np.array([max(1, sum(gram in image for image in seen)) for gram in vocabulary])
        weight = np.log(len(references)) - np.log(frequency)
        of_image = []
        for key, text in candidates.items():
            one = np.array([grams(text)[gram] for gram in vocabulary]) * weight
            values = []
            for reference in references[key]:
                other = np.array([grams(reference)[gram] for gram in vocabulary]) * weight
                norm = np.linalg.norm(one) * np.linalg.norm(other)
                cosine = np.minimum(one, other) @ other / norm if norm else 0.0
                pairs = max(0, len(text.split()) - 1) - max(0, len(reference.split()) - 1)
                values.append(cosine * math.exp(-(pairs**2) / (2 * 6**2)))
            of_image.append(np.mean(values))
        means.append(np.mean(of_image))
    return 100 * 10 * float(np.mean(means))


def test_cider_equals_its_definition() -> None:
    random = Random(3)
    words = ["a", "red", "blue", "circle", "star", "on", "the", "left", "of", "and", "small"]
    references = {
        i: [" ".join(random.choices(words, k=random.randint(4, 9))) for _ in range(random.randint(1, 4))]
        for i in range(12)
    }
    candidates = {i: " ".join(random.choices(words, k=random.randint(2, 8))) for i in range(12)}
    candidates[3] = references[3][0]
    expected = cider_d(candidates, references)
    assert expected > 20
    assert compute_caption_metrics(candidates, references)["cider"] == pytest.approx(expected)


def test_cider_of_perfect_captions_without_common_words_is_1000_percent() -> None:
    texts = {1: "one two three four five", 2: "six seven eight nine ten"}
    found = compute_caption_metrics(texts, {key: [text] for key, text in texts.items()})
    assert found["cider"] == pytest.approx(1000)
    assert found["bleu@4"] == pytest.approx(100)


def test_caption_metrics_print_nothing_and_accept_empty_captions(capfd: pytest.CaptureFixture[str]) -> None:
    found = compute_caption_metrics({1: "", 2: "?!"}, {1: ["a cat"], 2: ["a dog"]})
    assert {name: round(value, 3) for name, value in found.items()} == dict.fromkeys(
        ("cider", "bleu@1", "bleu@2", "bleu@3", "bleu@4", "rouge_l"), 0.0
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("candidates", "references", "message"),
    [
        ({}, {}, "at least one caption"),
        ({"a": "x"}, {"a": ["x"], "b": ["y"]}, r"1 references without a caption \['b'\]"),
        ({"a": "x", "b": "y"}, {"a": ["x"]}, r"1 captions without references \['b'\]"),
        ({"a": "x"}, {"a": []}, r"no reference caption: \['a'\]"),
        (dict.fromkeys("abcd", "x"), {"e": ["x"]}, r"4 captions without references \['a', 'b', 'c'\], 1 "),
        ({"e": "x"}, {key: ["x"] for key in "abcd"}, r"4 references without a caption \['a', 'b', 'c'\]"),
        (dict.fromkeys("abcd", "x"), {key: [] for key in "abcd"}, r"4 images .*\['a', 'b', 'c'\]"),
    ],
)
def test_inconsistent_keys_are_refused(candidates: dict, references: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compute_caption_metrics(candidates, references)
