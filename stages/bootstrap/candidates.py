"""Candidates of an image: its web texts and its synthetic texts, with flags."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from capfilt.models.caption_text import normalize_caption
from capfilt.stages.bootstrap.content_flags import CONTENT_FLAGS, flag_content
from capfilt.stages.bootstrap.duplicates import DUPLICATE_IMAGE

EMPTY = "empty"
"""Flag of a text without words, which is not judged."""
DUPLICATE = "duplicate"
"""Flag of a text that equals an earlier text of the image, apart from case and punctuation."""
DEGENERATE = "degenerate"
"""Flag of a text that repeats itself (BLIP issue 99: "dai dai dai")."""
FLAGS = (EMPTY, DUPLICATE, DEGENERATE, *CONTENT_FLAGS, DUPLICATE_IMAGE)
"""All flags of a candidate."""
OF_CAPTION = ("seed", "logprob", "tokens")
"""Columns that a synthetic text has from the captioner."""

DEGENERATE_RUN = 3
"""A text is degenerate if one word occurs this many times in a row."""
DEGENERATE_WORDS = 8
DEGENERATE_VOCABULARY = 2
"""A text of at least `DEGENERATE_WORDS` words is degenerate if at most this many of them differ."""


def gather_candidates(
    web_texts: Sequence[str] | None,
    captions: Sequence[dict[str, Any]],
    foreign: Sequence[dict[str, str]] = (),
) -> list[dict[str, Any]]:
    """Candidates of one image without scores, in the fields of `stages.rows.CANDIDATE_TYPE`.

    Args:
        web_texts: the texts that came with the image.
        captions: synthetic texts, in the fields of `stages.rows.CAPTION_TYPE`.
        foreign: synthetic texts from elsewhere, in the fields of `stages.rows.FOREIGN_TYPE`.

    Returns:
        The web texts, then the synthetic texts, those from elsewhere last, each in their order.
    """
    texts: list[tuple[str, int, str, dict[str, Any]]] = [
        ("web", index, text, {}) for index, text in enumerate(web_texts or [])
    ]
    texts += [("synthetic", c["caption_index"], c["text"], c) for c in captions]
    numbered = enumerate(foreign, start=len(captions))
    texts += [("synthetic", index, c["text"], c) for index, c in numbered]
    candidates: list[dict[str, Any]] = []
    earlier: set[str] = set()
    for origin, index, text, caption in texts:
        normalized = normalize_caption(text, max_words=None)
        candidates.append(
            {
                "origin": origin,
                "caption_index": index,
                "text": text,
                **{name: caption.get(name) for name in OF_CAPTION},
                "itm_prob": None,
                "itc_sim": None,
                "text_sim": None,
                "kept": None,
                "flags": flag_text(normalized, earlier) + flag_content(text),
                "captioner": caption.get("captioner"),
            }
        )
        earlier.add(normalized)
    return candidates


def flag_text(text: str, earlier: set[str]) -> list[str]:
    """Flags of a normalized text: `empty`, or any of `duplicate` and `degenerate`.

    Args:
        earlier: the normalized texts of the same image that precede it.
    """
    words = text.split()
    if not words:
        return [EMPTY]
    flags = [DUPLICATE] if text in earlier else []
    if _is_degenerate(words):
        flags.append(DEGENERATE)
    return flags


def _is_degenerate(words: Sequence[str]) -> bool:
    if len(words) >= DEGENERATE_WORDS and len(set(words)) <= DEGENERATE_VOCABULARY:
        return True
    longest = run = 1
    for previous, word in pairwise(words):
        run = run + 1 if word == previous else 1
        longest = max(longest, run)
    return longest >= DEGENERATE_RUN
