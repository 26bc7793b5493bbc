"""Word tokenization of captions, shared by the caption metrics and the diversity of the texts."""

from __future__ import annotations

import re

_WORD = re.compile(
    r"[^\W_]+(?=n't\b)"  # "do" of "don't", as in the Penn Treebank
    r"|n't\b|'(?:s|re|ve|ll|d|m)\b"  # "n't", possessive and contracted endings are words of their own
    r"|[^\W_]+(?:[-.,/][^\W_]+)*"  # "blue-green", "3.5", "1,000" stay whole
)


def split_words(text: str) -> list[str]:
    """Split a caption into lower-case words and drop the punctuation.

    For plain English the result equals that of the Java tokenizer of the COCO evaluation: possessives and
    contractions are split off, hyphenated words and numbers stay whole. Unusual symbols may be split
    differently, which changes the scores slightly. Scripts without spaces between words are not segmented.
    """
    return _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
