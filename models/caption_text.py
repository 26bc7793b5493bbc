"""Caption normalization, the `pre_caption` of salesforce/BLIP (data/utils.py)."""

import re

MAX_WORDS = 30
"""Words of a caption that the model reads unless configured otherwise (the default of `pre_caption`)."""

REMOVED_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")


def normalize_caption(text: str, max_words: int | None = None) -> str:
    """Lowercase a caption, replace some punctuation by spaces, and collapse whitespace.

    Args:
        text: the caption.
        max_words: keep only that many leading words (reference: 30 in pretraining, 50 elsewhere); None keeps
            all.
    """
    text = REMOVED_PUNCTUATION.sub(" ", text.lower())
    words = text.split() if max_words is None else text.split(maxsplit=max_words)[:max_words]
    return " ".join(words)
