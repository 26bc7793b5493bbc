"""The score of answers by the rule of the VQA challenge (Antol et al. 2015; visualqa.org/evaluation.html).

An answer scores min(matches / 3, 1), where matches are the annotators who gave it, averaged over the ten
choices of nine annotators. Answers are normalized before they are compared: lower case, no articles, number
words as digits, apostrophes of contractions, no punctuation except in numbers, times and possessives.
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
_REMOVED = re.compile(r"[;/\[\]\"{}()=+\\_\-><@`?!]")
_COMMA = re.compile(r"(?<=\d),(?=\d)")
_PERIOD = re.compile(r"(?<!\d)\.|\.(?!\d)")
_NEGATED = ("ain", "are", "ca", "could", "did", "do", "does", "had", "has", "have", "is", "might", "must",
            "need", "should", "was", "were", "wo", "would")  # fmt: skip
_SHORTENED = {
    "'m": ("i",),
    "'re": ("they", "you", "what"),
    "'ve": ("could", "i", "might", "must", "should", "they", "we", "would", "you"),
    "'ll": ("it", "that", "they", "what", "who", "you"),
    "'d": ("how", "it", "that", "there", "they", "who", "you"),
    "'s": ("he", "here", "how", "let", "she", "that", "there", "what", "when", "where", "who", "why"),
}
CONTRACTIONS = {f"{word}nt": f"{word}n't" for word in _NEGATED} | {
    f"{word}{ending[1:]}": f"{word}{ending}" for ending, words in _SHORTENED.items() for word in words
}
"""Contractions without an apostrophe, with it. Those that are words of their own (were, its, well) are no
mistakes and are left out."""


def normalize_answer(answer: str) -> str:
    """The form in which answers are compared."""
    text = " ".join(answer.split()).lower()
    text = _COMMA.sub("", text)
    text = _REMOVED.sub(" ", text).replace(",", " ")
    text = _PERIOD.sub("", text)
    words = (NUMBERS.get(word, word) for word in text.split())
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
