"""Which texts of an image a training reads, and how often.

With `per_image: all` every text is a pair of its own; with `one` an image is one pair, whose text is drawn
again in each epoch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le

from capfilt.stages.storage.layout import DEFAULT_VERDICTS
from capfilt.stages.verdicts.sets import NAME

PerImage = Literal["all", "one"]
Sentences = Literal["whole", "sample"]
ORIGINS = ("human", "web", "synthetic")
"""Where a text can come from."""


@dataclass(frozen=True, kw_only=True)
class TextsConfig:
    """Which texts a pretraining on candidates (from round 1 on, and its controls) reads, and how often."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    human: Annotated[float, Ge(0), Le(100)] = 1
    """Weight of human pairs: the average number of times that each occurs in an epoch. With 2 it occurs
    twice, with 0.5 in every other epoch, with 0 never. With `per_image: one` it counts images, and each
    occurrence draws one of the image's human texts, all with equal probability."""
    web: Annotated[float, Ge(0), Le(100)] = 1
    """Weight of the kept web texts. With `per_image: all` the average number of times that each occurs in an
    epoch. With `one` the probability that a web text is drawn is proportional to it: 0.2 beside `synthetic:
    0.8` draws one in a fifth of the epochs."""
    synthetic: Annotated[float, Ge(0), Le(100)] = 1
    """Weight of the kept synthetic texts, as for `web`."""
    per_image: PerImage = "all"
    """`all`: a pair for each kept text (paper). `one`: each web image occurs once in an epoch, with one of
    its kept texts: the origin is drawn by `web` and `synthetic`, where the image has texts of both, and then
    one of its texts of that origin. The draw depends on seed, epoch and image."""
    verdicts: str = DEFAULT_VERDICTS
    """Set of verdicts that says which texts are kept. `default`: what the filter decided in the run. Other
    sets are made with `capfilt rejudge` once a round is bootstrapped."""
    sentences: Sentences = "whole"
    """`whole`: a text as it is (paper). `sample`: of a text with several sentences one, drawn again each time
    that the pair occurs; for long captions."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.verdicts):
            raise ValueError(
                f"verdicts {self.verdicts!r} cannot be the name of a set; allowed: letters, digits, '-', '_' "
                "and '.', at most 64, with a letter or digit first"
            )
        if not (self.human or self.web or self.synthetic):
            raise ValueError("human, web and synthetic are all 0, which leaves no pair; raise one of them")

    @property
    def weights(self) -> dict[str, float]:
        """{origin: its weight}."""
        return {origin: getattr(self, origin) for origin in ORIGINS}


def weigh_texts(origins: Sequence[str], weights: Mapping[str, float], per_image: PerImage) -> list[float]:
    """How often each text of an image occurs in an average epoch.

    Args:
        origins: of the texts: all human, or each web or synthetic.
        weights: {origin: its weight}, 1 where it is not named.

    Returns:
        One number for each text. With `per_image` "one" those of a web image add up to 1 (to 0 if the weights
        of all its origins are 0), those of a human image to the weight of human pairs.
    """
    each = {origin: weights.get(origin, 1.0) for origin in origins}
    if per_image == "all":
        return [each[origin] for origin in origins]
    counts = Counter(origins)
    total = 1.0 if "human" in counts else sum(each.values())
    return [each[origin] / total / counts[origin] if total else 0.0 for origin in origins]


_ABBREVIATIONS = """
    mr mrs ms dr prof st mt no vs fig figs vol ca approx dept est jr sr co inc ltd e.g i.e u.s a.m p.m
"""
_ABBREVIATED = frozenset(_ABBREVIATIONS.split())
_END = re.compile(
    r"""
    (?P<mark>[.!?\u2026]+)['")\]\u2019\u201d\u00bb]*\s+(?=[^a-z\s])  # then a space, and no lower-case letter
    | [\u3002\uff01\uff1f]+[\u300d\u300f\uff09\u201d]*\s*            # the full stops of Chinese and Japanese
    | \s*[\r\n]+\s*                                                  # a new line
    """,
    re.VERBOSE,
)
_LAST_WORD = re.compile(r"[^\s(\[\"']*\Z")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, without the space around them; a text that has no two is its only one.

    A sentence ends at `.`, `!`, `?` or an ellipsis before a space and anything but a lower-case letter; at a
    full stop of Chinese or Japanese; and at a new line. A single period does not end one after an initial or
    a common English abbreviation. What has no letter belongs to the sentence before it.
    """
    sentences: list[str] = []
    start = 0
    for end in _END.finditer(text):
        if end["mark"] == "." and _is_abbreviation(text[start : end.start()]):
            continue
        _append(sentences, text[start : end.end()])
        start = end.end()
    _append(sentences, text[start:])
    return sentences or [text.strip()]


def _is_abbreviation(before: str) -> bool:
    match = _LAST_WORD.search(before)
    word = match[0] if match is not None else ""
    return word.lower() in _ABBREVIATED or (len(word) == 1 and word.isalpha() and word.isupper())


def _append(sentences: list[str], piece: str) -> None:
    if any(character.isalpha() for character in piece) or not sentences:
        if piece.strip():
            sentences.append(piece.strip())
    elif piece.strip():
        sentences[-1] = f"{sentences[-1]} {piece.strip()}"
