"""NEW FILE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from capfilt.models.caption_text import normalize_caption


def gather_candidates(
    web_texts: Sequence[str] | None, captions: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Candidates of one image, unjudged, with their flags."""
    found: list[dict[str, Any]] = []
    seen: set[str] = set()
    pairs = [("web", i, text, None) for i, text in enumerate(web_texts or [])]
    pairs += [("synthetic", c["caption_index"], c["text"], c["seed"]) for c in captions]
    for origin, index, text, seed in pairs:
        normal = normalize_caption(text, max_words=None)
        found.append(
            {
                "origin": origin,
                "caption_index": index,
                "text": text,
                "seed": seed,
                "itm_prob": None,
                "itc_sim": None,
                "kept": None,
                "flags": text_flags(normal, seen),
            }
        )
        seen.add(normal)
    return found


def text_flags(text: str, seen: set[str]) -> list[str]:
    """Flags of a normalised text: `empty`; `duplicate` of an earlier text of the image; `degenerate` when one
    word stands three times in a row or two words make up eight or more ("dai dai dai", BLIP issue 99)."""
    words = text.split()
    if not words:
        return ["empty"]
    flags = ["duplicate"] if text in seen else []
    repeats = run = 1
    for before, word in pairwise(words):
        run = run + 1 if word == before else 1
        repeats = max(repeats, run)
    if repeats >= 3 or (len(words) >= 8 and len(set(words)) <= 2):
        flags.append("degenerate")
    return flags
