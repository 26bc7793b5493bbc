"""Caption metrics of the COCO evaluation, computed by pycocoevalcap without Java."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge

from capfilt.pipeline.evaluation.words import split_words

Key = TypeVar("Key", bound=Hashable)


def compute_caption_metrics(
    candidates: Mapping[Key, str], references: Mapping[Key, Sequence[str]]
) -> dict[str, float]:
    """Compute CIDEr-D, BLEU-1 to BLEU-4 and ROUGE-L over a set of images, in percent as in papers.

    CIDEr weights words by how rare they are among the images of this set. It is 0 for a single image, and
    only comparable between models on the same set.

    Args:
        candidates: image key → the caption to score.
        references: image key → captions written by people, at least one each.

    Returns:
        {"cider", "bleu@1", "bleu@2", "bleu@3", "bleu@4", "rouge_l"}.

    Raises:
        ValueError: there are no captions, the keys of the two arguments differ, or a key has no reference.
    """
    hypotheses, truths = split_captions(candidates, references)
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints lengths and ratios
        bleu, _ = Bleu(4).compute_score(truths, hypotheses, verbose=0)
        cider, _ = Cider().compute_score(truths, hypotheses)
        rouge, _ = Rouge().compute_score(truths, hypotheses)
    scores = {"cider": cider, **{f"bleu@{n}": b for n, b in enumerate(bleu, start=1)}, "rouge_l": rouge}
    return {name: 100 * float(value) for name, value in scores.items()}


def group_keys(groups: Mapping[Key, str]) -> dict[str, list[Key]]:
    """{group: its keys}, sorted by group; keys whose group is "" are in none.

    Args:
        groups: image key → the part of the data to which it belongs, such as a domain of NoCaps.
    """
    found: dict[str, list[Key]] = {}
    for key, group in groups.items():
        if group:
            found.setdefault(group, []).append(key)
    return dict(sorted(found.items()))


def split_captions(
    candidates: Mapping[Key, str], references: Mapping[Key, Sequence[str]]
) -> tuple[dict[Key, list[str]], dict[Key, list[str]]]:
    """Captions and references as pycocoevalcap takes them: {key: [words with spaces between them]}.

    Raises:
        ValueError: as `compute_caption_metrics`.
    """
    _check_keys(candidates, references)
    hypotheses = {key: [" ".join(split_words(text))] for key, text in candidates.items()}
    truths = {key: [" ".join(split_words(text)) for text in references[key]] for key in candidates}
    return hypotheses, truths


def _check_keys(candidates: Mapping[Key, str], references: Mapping[Key, Sequence[str]]) -> None:
    if not candidates:
        raise ValueError("caption metrics need at least one caption, got none")
    if candidates.keys() != references.keys():
        missing = [key for key in candidates if key not in references]
        extra = [key for key in references if key not in candidates]
        raise ValueError(
            f"captions and references must have the same keys: {len(missing)} captions without references "
            f"{missing[:3]}, {len(extra)} references without a caption {extra[:3]}"
        )
    empty = [key for key, texts in references.items() if not texts]
    if empty:
        raise ValueError(f"{len(empty)} images have no reference caption: {empty[:3]}; leave them out")
