"""Captions in the form in which the model knows them (BLIP's pre_caption)."""

import re

# Replaced by a space before training and scoring (pre_caption of salesforce/BLIP data/utils.py).
CAPTION_PUNCTUATION = re.compile(r"[.!\"()*#:;~]")


def normalize_caption(text: str, max_words: int | None = None) -> str:
    """A caption as the model knows captions: lower case, some punctuation and all runs of blanks one space.

    The paper's pre_caption; at most `max_words` words are kept (reference: 30 in pretraining, 50 elsewhere).
    """
    words = CAPTION_PUNCTUATION.sub(" ", text.lower()).split()
    return " ".join(words[:max_words])
