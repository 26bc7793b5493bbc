"""Texts that differ from a given one in one word, made of a sample's own texts.

A word is replaced by one that stands between the same two words somewhere in the sample: if "a red ring" and
"a blue ring by a box" are in it, "a blue ring" is a variant of the first. So variants are of the language and
the style of the sample, whatever these are.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from random import Random

PER_PLACE = 8
"""Substitutes of a word, the most common ones."""
PER_TEXT = 32
"""Variants of a text; of more, these are drawn."""
START, END = "<", ">"
"""Neighbors of the first and the last word."""

Substitutes = Mapping[tuple[str, str], Sequence[str]]
"""{(word before, word after): words between them, most common first}."""


def find_substitutes(texts: Sequence[str]) -> Substitutes:
    """The words that stand between the same two words in some texts."""
    counts: defaultdict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for text in texts:
        for before, word, after in _places(text.split()):
            counts[before, after][word] += 1
    return {
        place: [word for word, _ in found.most_common(PER_PLACE + 1)]
        for place, found in counts.items()
        if len(found) > 1
    }


def vary_text(text: str, substitutes: Substitutes) -> list[str]:
    """Variants of a text that differ from it in one word, at most `PER_TEXT`; the same ones each time."""
    words = text.split()
    variants = [
        " ".join([*words[:number], other, *words[number + 1 :]])
        for number, (before, word, after) in enumerate(_places(words))
        for other in islice((w for w in substitutes.get((before, after), ()) if w != word), PER_PLACE)
    ]
    return variants if len(variants) <= PER_TEXT else Random(text).sample(variants, PER_TEXT)


def _places(words: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Each word with the one before and the one after it."""
    return zip([START, *words], words, [*words[1:], END], strict=False)
