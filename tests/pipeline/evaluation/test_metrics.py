"""Caption metrics, filter quality and drift against values worked out by hand or by other code."""

import math
from collections import Counter
from random import Random

import numpy as np
import pytest

from capfilt.pipeline.evaluation.caption_metrics import caption_metrics, tokenize
from capfilt.pipeline.evaluation.drift import text_drift
from capfilt.pipeline.evaluation.filter_quality import area_under_curve, filter_quality


def test_tokenise_splits_as_the_treebank_does_and_drops_punctuation() -> None:
    assert tokenize('Don\'t stop: "Anna’s blue-green car", 3.5 m!') == [
        "do", "n't", "stop", "anna", "'s", "blue-green", "car", "3.5", "m",
    ]  # fmt: skip
    assert tokenize("Ein Café – 日本語, a_b") == ["ein", "café", "日本語", "a", "b"]
    assert tokenize("... !?") == []


def test_bleu_and_rouge_equal_values_worked_out_by_hand() -> None:
    found = caption_metrics({1: "The cat sat on the mat."}, {1: ["the cat is on the mat"]})
    # 5 of 6 words, 3 of 5 pairs and 1 of 4 triples are right; the longest common subsequence has 5 words.
    assert found["bleu@1"] == pytest.approx(100 * 5 / 6)
    assert found["bleu@2"] == pytest.approx(100 * math.sqrt(5 / 6 * 3 / 5))
    assert found["bleu@3"] == pytest.approx(50)
    assert found["bleu@4"] == pytest.approx(0, abs=0.1)
    assert found["rouge_l"] == pytest.approx(100 * 5 / 6)
    short = caption_metrics({1: "a cat"}, {1: ["a cat sat here"]})
    assert short["bleu@1"] == pytest.approx(100 * math.exp(1 - 4 / 2)), "brevity penalty"


def cider_d(candidates: dict[int, str], references: dict[int, list[str]]) -> float:
    """CIDEr-D from its definition (Vedantam et al. 2015, arXiv 1411.5726, sections 4 and 5.2), with dense vectors.

    The length in the Gaussian counts pairs of words, as the published implementation does.
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
    assert caption_metrics(candidates, references)["cider"] == pytest.approx(expected)


def test_cider_of_perfect_captions_without_common_words_is_1000_percent() -> None:
    texts = {1: "one two three four five", 2: "six seven eight nine ten"}
    found = caption_metrics(texts, {key: [text] for key, text in texts.items()})
    assert found["cider"] == pytest.approx(1000)
    assert found["bleu@4"] == pytest.approx(100)


def test_caption_metrics_print_nothing_and_bear_empty_captions(capfd: pytest.CaptureFixture[str]) -> None:
    found = caption_metrics({1: "", 2: "?!"}, {1: ["a cat"], 2: ["a dog"]})
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
    ],
)
def test_caption_metrics_name_what_does_not_fit(candidates: dict, references: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        caption_metrics(candidates, references)


def test_area_under_curve_counts_pairs_and_ties_exactly() -> None:
    random = Random(0)
    positive = [random.random() < 0.4 for _ in range(200)]
    score = [random.randint(0, 9) / 10 + 0.1 * label for label, _ in zip(positive, range(200), strict=True)]
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for p, is_positive in zip(score, positive, strict=True) if is_positive
        for n, also in zip(score, positive, strict=True) if not also
    ]  # fmt: skip
    assert area_under_curve(np.array(positive), np.array(score)) == pytest.approx(sum(wins) / len(wins))


def test_filter_quality_equals_hand_counts() -> None:
    truth = ["clean", "mismatched", "clean", "boilerplate", "mismatched", None]
    itm_prob = [0.9, 0.1, 0.3, 0.6, None, 0.2]
    kept = [True, False, False, True, None, False]
    # Judged noise: rows 2 and 4, one of them dropped; dropped with a truth: rows 2 and 3.
    # Noise scores .9 and .4 against clean .1 and .7: three of four pairs in order.
    assert filter_quality(truth, itm_prob, kept) == {
        "auc": pytest.approx(0.75), "precision": 0.5, "recall": 0.5,
    }  # fmt: skip


def test_filter_quality_is_none_without_both_classes() -> None:
    assert filter_quality([], [], []) is None
    assert filter_quality([None], [0.5], [True]) is None
    assert filter_quality(["clean", "clean"], [0.5, 0.1], [True, False]) is None
    assert filter_quality(["partial"], [0.5], [True]) is None


def test_filter_quality_has_no_precision_when_nothing_was_dropped() -> None:
    found = filter_quality(["clean", "partial"], [0.9, 0.9], [True, True])
    assert found == {"auc": 0.5, "precision": None, "recall": 0.0}


def test_text_drift_equals_hand_counts() -> None:
    # 8 words, 4 of them different; 5 pairs, 3 different; one text of 3 repeats another.
    assert text_drift(["a red star", "A red star.", "red ring"]) == {
        "texts": 3,
        "distinct_1": pytest.approx(4 / 8),
        "distinct_2": pytest.approx(3 / 5),
        "mean_words": pytest.approx(8 / 3),
        "duplicate_share": pytest.approx(1 / 3),
    }
    assert text_drift([]) is None
    assert text_drift([""]) == {
        "texts": 1, "distinct_1": 0.0, "distinct_2": 0.0, "mean_words": 0.0, "duplicate_share": 0.0,
    }  # fmt: skip
