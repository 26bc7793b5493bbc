"""The score of the VQA challenge, on hand-made answers."""

from itertools import combinations
from statistics import fmean

import pytest

from capfilt.pipeline.tasks.vqa_score import normalize_answer, score_answer


@pytest.mark.parametrize(
    ("answer", "normal"),
    [
        ("Yes", "yes"),
        ("  two   dogs ", "2 dogs"),
        ("ten", "10"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("a red car", "red car"),
        ("the the", ""),
        ("an apple", "apple"),
        ("theater", "theater"),
        ("yes.", "yes"),
        ("3.5", "3.5"),
        ("U.S.A.", "usa"),
        ("1,000", "1000"),
        ("red, white", "red white"),
        ("red,white", "red white"),
        ("black/white", "black white"),
        ("t-shirt", "t shirt"),
        ("what?!", "what"),
        ("12:30", "12:30"),
        ("man's", "man's"),
        ("dont know", "don't know"),
        ("isnt", "isn't"),
        ("youre", "you're"),
        ("its", "its"),
        ("were", "were"),
        ("line\nbreak\ttab", "line break tab"),
        ("zero", "0"), ("ten ones", "10 ones"), ("none of the above", "0 of above"), ("10", "10"),
        ("A", ""), ("An", ""), ("THE end", "end"), ("another", "another"), ("a.", ""),
        (".5", ".5"), ("5.", "5"), ("v.2", "v.2"), ("3. 5", "3 5"), ("9:00 a.m.", "9:00 am"), ("...", ""),
        ("1,000,000", "1000000"), ("1, 000", "1 000"), ("a,1", "1"),
        ("yes / no", "yes no"), ("yes /no", "yes no"), ("yes/ no/maybe", "yes nomaybe"),
        ("red -blue t-shirt", "red blue tshirt"), ("1,000 t-shirts", "1000 tshirts"),
        ("black & white", "black & white"), ("50%", "50%"), ("$5", "$5"), ("<[{(@`_=+\\\";>)}]", ""),
        ("couldnt've", "couldn't've"), ("couldn'tve", "couldn't've"), ("theyd've", "they'd've"),
        ("Im", "im"), ("id've", "id've"), ("shes", "shes"), ("hes", "he's"), ("well", "well"),
        ("twas", "'twas"), ("oclock", "o'clock"), ("somebody'd", "somebodyd"), ("y'allll", "y'all'll"),
    ],
)  # fmt: skip
def test_answers_are_normalized_by_the_rule(answer, normal):
    assert normalize_answer(answer) == normal
    assert normalize_answer(normal) == normal, "normalizing twice changes nothing"


@pytest.mark.parametrize("right", range(11))
def test_score_is_the_mean_over_all_choices_of_nine_annotators(right):
    annotators = ["red"] * right + ["blue"] * (10 - right)
    chosen = [sum(each == "red" for each in nine) for nine in combinations(annotators, 9)]
    expected = fmean(min(count / 3, 1) for count in chosen)
    assert score_answer("Red.", annotators) == pytest.approx(expected)


@pytest.mark.parametrize(("right", "score"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_scores_of_the_rule(right, score):
    assert score_answer("2", ["two"] * right + ["three"] * (10 - right)) == pytest.approx(score)


@pytest.mark.parametrize(
    ("answers", "scores"),
    [
        ({"red": 5, "blue": 5}, {"red": 1, "blue": 1, "green": 0}),
        ({"red": 3, "blue": 3, "green": 4}, {"red": 0.9, "blue": 0.9, "green": 1}),
        ({"two": 2, "2": 1, "2.": 1, "3": 6}, {"2": 1, "Two": 1, "a two": 1, "3": 1}),
        ({"yes": 2, "yes!": 0, "no": 8}, {"yes": 0.6, "Yes.": 0.6, "yess": 0}),
    ],
)
def test_answers_that_tie_score_alike_and_spellings_count_together(answers, scores):
    annotators = [answer for answer, count in answers.items() for _ in range(count)]
    for answer, score in scores.items():
        assert score_answer(answer, annotators) == pytest.approx(score)


def test_a_single_annotator_is_compared_as_it_is():
    assert score_answer("a dog", ["dog"]) == 1 and score_answer("cat", ["dog"]) == 0
