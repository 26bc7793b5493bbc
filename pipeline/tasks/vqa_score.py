"""The score of answers by the rule of the VQA challenge (Antol et al. 2015; visualqa.org/evaluation.html).

An answer scores min(matches / 3, 1), where matches are the annotators who gave it, averaged over the ten
choices of nine annotators. Answers are normalized before they are compared, as by the challenge's program:
lower case, no articles, number words as digits, apostrophes of contractions, no punctuation.

One difference: that program compares answers as they are where all annotators agree. Its annotations are
normalized already, so that this matters only for answers that no training on them gives ("Yes.").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(number) for number, word in enumerate(_WORDS)} | {"none": "0"}
ARTICLES = ("a", "an", "the")
FULL_AGREEMENT = 3
"""Annotators who make an answer fully right."""
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
"""Characters that become a space, or nothing; others, such as `:`, `'` and `&`, stay."""
_DIGIT_COMMA = re.compile(r"\d,\d")
_PERIOD = re.compile(r"\.(?!\d)")
_CONTRACTED = (
    "ain't", "aren't", "can't", "could've", "couldn't", "didn't", "doesn't", "don't", "hadn't", "hasn't",
    "haven't", "he'd", "he's", "how'd", "how'll", "how's", "isn't", "it'd", "it'll", "ma'am", "might've",
    "mightn't", "must've", "mustn't", "needn't", "not've", "o'clock", "oughtn't", "shan't", "should've",
    "shouldn't", "somebody'll", "somebody's", "someone'd", "someone'll", "someone's", "something'd",
    "something'll", "that's", "there'd", "there're", "there's", "they'd", "they'll", "they're", "they've",
    "'twas", "wasn't", "we've", "weren't", "what'll", "what're", "what's", "what've", "when's", "where'd",
    "where's", "where've", "who'd", "who'll", "who's", "who've", "why'll", "why're", "why's", "won't",
    "would've", "wouldn't", "y'all", "you'd", "you'll", "you're", "you've",
)  # fmt: skip
_HAD = ("he", "it", "she", "somebody", "someone", "something", "there", "they", "we", "who", "you")
_TWICE = [f"{word}'d've" for word in _HAD]
_TWICE += [f"{word}n't've" for word in ("could", "had", "might", "should", "would")]
_TWICE += ["y'all'll", "y'all'd've", "'ow's'at"]


def _without_one(word: str) -> list[str]:
    """The spellings of a word that lack one of its apostrophes."""
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTED} | {
    spelling: word for word in _TWICE for spelling in _without_one(word)
}
CONTRACTIONS |= {"yall'd've": "y'all'd've", "somebody'd": "somebodyd"}
"""Contractions as they are misspelled, and their normal form; the last is what the program makes of it."""


def normalize_answer(answer: str) -> str:
    """The form in which answers are compared.

    A punctuation mark that stands beside a space anywhere in the answer is removed everywhere; so are all
    marks if there is a number as 1,000. Other marks become spaces. Periods stay before digits only.
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    has_long_number, found = _DIGIT_COMMA.search(text) is not None, text
    for mark in PUNCTUATION:
        is_loose = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if is_loose or has_long_number else " ")
    words = (NUMBERS.get(word, word) for word in _PERIOD.sub("", found).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def score_answer(answer: str, annotators: Sequence[str]) -> float:
    """The score of an answer, 0 to 1.

    Args:
        annotators: the answer of each annotator; ten in VQA v2. A single one is compared as it is.
    """
    given = normalize_answer(answer)
    matches = [normalize_answer(each) == given for each in annotators]
    if len(matches) == 1:
        return float(matches[0])
    others = (sum(matches) - own for own in matches)
    return fmean(min(1.0, count / FULL_AGREEMENT) for count in others)
