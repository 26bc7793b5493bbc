"""Numbers that judge a round: caption metrics, filter quality against planted noise, drift of the texts.

Pure functions of texts, scores and verdicts; `pipeline/report/tables.py` fetches those from a run's files.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Hashable, Mapping, Sequence
from itertools import pairwise
from typing import TypedDict, TypeVar

import numpy as np
from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

Key = TypeVar("Key", bound=Hashable)

CLEAN = "clean"
"""Value of the truth column for a text that describes its image; any other value names a kind of noise."""

_TOKEN = re.compile(
    r"[^\W_]+(?=n't\b)"  # "do" of "don't", as Penn Treebank splits it
    r"|n't\b|'(?:s|re|ve|ll|d|m)\b"  # "n't", possessive and contracted endings stand alone
    r"|[^\W_]+(?:[-.,/][^\W_]+)*"  # "blue-green", "3.5", "1,000" stay whole
)


class FilterQuality(TypedDict):
    """How well a filter finds planted noise; every value in [0, 1]."""

    auc: float
    precision: float | None
    recall: float


class TextDrift(TypedDict):
    """Signs of a captioner that narrows from round to round (shared/docs/blip.md, 6.7)."""

    texts: int
    distinct_1: float
    distinct_2: float
    mean_words: float
    duplicate_share: float


def tokenise(text: str) -> list[str]:
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
    hypotheses = {key: [" ".join(tokenise(text))] for key, text in candidates.items()}
    truths = {key: [" ".join(tokenise(text)) for text in references[key]] for key in candidates}
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints lengths and ratios
        bleu, _ = Bleu(4).compute_score(truths, hypotheses, verbose=0)
        cider, _ = Cider().compute_score(truths, hypotheses)
        rouge, _ = Rouge().compute_score(truths, hypotheses)
    scores = {"cider": cider, **{f"bleu@{n}": b for n, b in enumerate(bleu, start=1)}, "rouge_l": rouge}
    return {name: 100 * float(value) for name, value in scores.items()}


def filter_quality(
    truth: Sequence[str | None], itm_prob: Sequence[float | None], kept: Sequence[bool | None]
) -> FilterQuality | None:
    """How well a filter finds planted noise. Positive class: noise; its score: 1 - itm_prob.

    AUC is over the scores; precision and recall are of the verdicts as they were given (dropped = called
    noise). Texts without a truth or a verdict do not count.

    Returns:
        None where there is no truth, or where all texts are noise or all are clean. Precision is None when
        nothing was dropped.
    """
    judged = [
        (label != CLEAN, score, keep)
        for label, score, keep in zip(truth, itm_prob, kept, strict=True)
        if label is not None and score is not None and keep is not None
    ]
    noise = np.array([row[0] for row in judged], dtype=bool)
    if not noise.any() or noise.all():
        return None
    dropped = ~np.array([row[2] for row in judged], dtype=bool)
    hits = int((noise & dropped).sum())
    return {
        "auc": area_under_curve(noise, 1 - np.array([row[1] for row in judged], dtype=np.float64)),
        "precision": hits / int(dropped.sum()) if dropped.any() else None,
        "recall": hits / int(noise.sum()),
    }


def area_under_curve(positive: np.ndarray, score: np.ndarray) -> float:
    """Probability that a positive scores above a negative, a tie counting one half (Mann-Whitney).

    Args:
        positive: [n] bool, with both classes present.
        score: [n], higher = more likely positive.
    """
    _, group, sizes = np.unique(score, return_inverse=True, return_counts=True)
    last_rank = np.cumsum(sizes)
    middle_rank = last_rank - (sizes - 1) / 2  # ranks from 1; equal scores share their mean rank
    positives = int(positive.sum())
    rank_sum = float(middle_rank[group][positive].sum())
    wins = rank_sum - positives * (positives + 1) / 2
    return wins / (positives * (len(positive) - positives))


def text_drift(texts: Sequence[str]) -> TextDrift | None:
    """Diversity of a set of texts; None for an empty set.

    distinct_n = different n-grams / all n-grams (Li et al. 2016, arXiv 1510.03055); duplicate_share = share
    of texts that repeat another one word for word. Both fall or rise with the size of the set: compare sets
    of one size only.
    """
    if not texts:
        return None
    words = [tokenise(text) for text in texts]
    singles = [word for sentence in words for word in sentence]
    pairs = [pair for sentence in words for pair in pairwise(sentence)]
    return {
        "texts": len(texts),
        "distinct_1": len(set(singles)) / max(1, len(singles)),
        "distinct_2": len(set(pairs)) / max(1, len(pairs)),
        "mean_words": len(singles) / len(texts),
        "duplicate_share": 1 - len({" ".join(sentence) for sentence in words}) / len(texts),
    }
