"""The figures of `capfilt evaluate`, printed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from capfilt.pipeline.console.summary import print_fields

if TYPE_CHECKING:
    from capfilt.pipeline.testset.evaluate import Evaluation

DIRECTIONS = (("image → text", "tr"), ("text → image", "ir"))
CAPTION_LABELS = {
    "cider": "CIDEr", "bleu@1": "BLEU-1", "bleu@2": "BLEU-2", "bleu@3": "BLEU-3", "bleu@4": "BLEU-4",
    "rouge_l": "ROUGE-L", "meteor": "METEOR", "spice": "SPICE",
}  # fmt: skip
SHOWN_FAILURES = 3


def print_evaluation(console: Console, found: Evaluation, files: Sequence[str]) -> None:
    """Print what was evaluated, the figures, what could not be read, and the files."""
    model, split = found.model, f" ({found.test_set.split})" if found.test_set.split else ""
    fields = [
        (
            "model",
            f"{found.request.checkpoint}: {model['format']} {model['parts']}, {model['image_size']} px, "
            f"{model['precision']} on {model['device']}",
        ),
        ("data", f"{found.request.data}{split}: {found.evaluated:,} images, {found.texts:,} texts"),
    ]
    print_fields(console, fields + _failures(found))
    if found.retrieval:
        console.print(_retrieval_table(found.retrieval, found.request.k))
    if found.caption:
        console.print(_caption_table(found.caption, found.caption_by_domain))
    print_fields(console, [("note", note) for note in found.notes])
    print_fields(console, [("file", file) for file in files])


def _failures(found: Evaluation) -> list[tuple[str, str]]:
    failed, listed = found.failed, len(found.test_set.images)
    if not failed:
        return []
    counts = Counter(image.status for image in failed)
    what = ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    lines = [
        f"{len(failed):,} of {listed:,} records: {what}",
        f"the figures are over the other {found.evaluated:,} images: not those of the whole test set",
    ]
    for image in failed[:SHOWN_FAILURES]:
        lines.append(f"{image.row['url'] or image.image_id or 'record'}: {image.status}, {image.message}")
    return [("failed", line) for line in lines]


def _retrieval_table(scores: Mapping[str, float], k: int) -> Padding:
    table = _table(f"retrieval (R@k, %), best {k} by ITC ranked again by ITM")
    table.add_column("")
    for name in ("ITC R@1", "R@5", "R@10", "ITC+ITM R@1", "R@5", "R@10"):
        table.add_column(name, justify="right")
    for label, way in DIRECTIONS:
        names = [f"{prefix}{way}@{n}" for prefix in ("itc_", "") for n in (1, 5, 10)]
        table.add_row(label, *(f"{scores[name]:.1f}" for name in names))
    table.add_row("mean", "", "", f"{scores['itc_r_mean']:.1f}", "", "", f"{scores['r_mean']:.1f}")
    return Padding(table, (0, 0, 0, 2), expand=False)


def _caption_table(scores: Mapping[str, float], by_domain: Mapping[str, Mapping[str, float]]) -> Padding:
    table = _table("captions (%)")
    names = [name for name in CAPTION_LABELS if name in scores]
    if by_domain:
        table.add_column("")
    for name in names:
        table.add_column(CAPTION_LABELS[name], justify="right")
    for label, own in ({**by_domain, "all": scores} if by_domain else {"": scores}).items():
        table.add_row(*([label] if by_domain else []), *(f"{own[name]:.1f}" for name in names))
    return Padding(table, (0, 0, 0, 2), expand=False)


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="dim", box=None, pad_edge=False)
