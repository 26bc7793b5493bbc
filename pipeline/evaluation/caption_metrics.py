"""Numbers that judge a round: caption metrics, filter quality against planted noise, drift of the texts.

Pure functions of texts, scores and verdicts; `pipeline/report/tables.py` fetches those from a run's files.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

Key = TypeVar("Key", bound=Hashable)


_TOKEN = re.compile(
    r"[^\W_]+(?=n't\b)"  # "do" of "don't", as Penn Treebank splits it
    r"|n't\b|'(?:s|re|ve|ll|d|m)\b"  # "n't", possessive and contracted endings stand alone
    r"|[^\W_]+(?:[-.,/][^\W_]+)*"  # "blue-green", "3.5", "1,000" stay whole
)


def tokenize(text: str) -> list[str]:
    """Lower-case words of a caption, punctuation dropped.

    It does to plain English what the Java tokeniser of the COCO evaluation does (possessives and contractions
    split off, hyphenated words and numbers whole, punctuation removed) without being it: on unusual symbols
    the two differ, and so may the scores, a little. Scripts without spaces between words are not segmented.
    """
    return _TOKEN.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def caption_metrics(
    candidates: Mapping[Key, str], references: Mapping[Key, Sequence[str]]
) -> dict[str, float]:
    """CIDEr-D, BLEU-1..4 and ROUGE-L over a set of images, in percent as papers print them.

    CIDEr weighs words by how rare they are among the images of this set, so it is 0 for a single image and
    only comparable between models on the same set. Computed by pycocoevalcap, without Java.

    Args:
        candidates: image key → the caption to judge.
        references: image key → captions people wrote for it, at least one each.

    Returns:
        {"cider", "bleu@1", "bleu@2", "bleu@3", "bleu@4", "rouge_l"}.

    Raises:
        ValueError: no captions, different keys on the two sides, or a key without a reference.
    """
    if not candidates:
        raise ValueError("caption metrics need at least one caption, got none")
    if candidates.keys() != references.keys():
        lacking = [key for key in candidates if key not in references]
        extra = [key for key in references if key not in candidates]
        raise ValueError(
            f"captions and references must have the same keys: {len(lacking)} captions without references "
            f"{lacking[:3]}, {len(extra)} references without a caption {extra[:3]}"
        )
    without = [key for key, texts in references.items() if not texts]
    if without:
        raise ValueError(f"{len(without)} images have no reference caption: {without[:3]}; leave them out")
    hypotheses = {key: [" ".join(tokenize(text))] for key, text in candidates.items()}
    truths = {key: [" ".join(tokenize(text)) for text in references[key]] for key in candidates}
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints lengths and ratios
        bleu, _ = Bleu(4).compute_score(truths, hypotheses, verbose=0)
        cider, _ = Cider().compute_score(truths, hypotheses)
        rouge, _ = Rouge().compute_score(truths, hypotheses)
    scores = {"cider": cider, **{f"bleu@{n}": b for n, b in enumerate(bleu, start=1)}, "rouge_l": rouge}
    return {name: 100 * float(value) for name, value in scores.items()}
