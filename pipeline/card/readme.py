"""The card as README.md in the form of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from capfilt import __version__
from capfilt.pipeline.card.facts import CardFacts
from capfilt.pipeline.report.formats.values import to_printable

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
LIMITS = """\
* The texts are of two kinds: texts that came with the images, and captions that a model wrote. Both were kept
  because a model found that they match their image; it errs in both directions.
* A caption can state what the image does not show, and repeats the biases of the captioner's training data.
* Kept texts can name people, and images can show them. Nothing was removed for that reason.
* The rights to images and texts belong to their owners. A license is known only where the rows brought one.
* Images were stored as they were on the day of the download; their addresses may lead elsewhere now.
"""


def make_readme(
    facts: CardFacts, data_files: str | None = None, pairs: Mapping[str, int] | None = None
) -> str:
    """The card as text.

    Args:
        data_files: pattern of the Parquet files beside the card; None: there are none.
        pairs: {origin: image-text pairs beside the card}; None: those that the round kept.
    """
    kept = sum(counts.get("kept", 0) for counts in facts.candidates.values())
    front: dict[str, Any] = {
        "pretty_name": facts.name,
        "license": "other",
        "task_categories": ["image-to-text", "text-to-image"],
        "size_categories": [size_category(kept if pairs is None else sum(pairs.values()))],
        "tags": ["capfilt", "image-text", "synthetic-captions"],
    }
    if data_files is not None:
        files = [{"split": "train", "path": data_files}]
        front["configs"] = [{"config_name": "default", "data_files": files}]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {to_markdown(facts.name)}",
        f"Image-text pairs, bootstrapped from noisy web pairs by captioning and filtering (CapFilt, "
        f"arXiv 2201.12086) with capfilt {__version__}; round {facts.round}.",
        "## Counts",
        _table(("rows of the web sources", "number"), dict(facts.status)),
        _candidates(facts),
        *([_table(("texts in the files beside this card", "number"), pairs)] if pairs else []),
        "## Models",
        _models(facts),
        "## Sources",
        _hosts(facts),
        "## Opt-outs",
        _optouts(facts),
        "## Known limits",
        LIMITS.rstrip(),
    ]
    return "\n\n".join(parts) + "\n"


def size_category(pairs: int) -> str:
    """The hub's name for a number of pairs."""
    return next((name for limit, name in SIZES if pairs < limit), "n>1B")


def to_markdown(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", to_printable(text, 300))


def _table(head: tuple[str, str], rows: Mapping[str, Any]) -> str:
    lines = [f"| {head[0]} | {head[1]} |", "|---|---:|"]
    for name, value in rows.items():
        lines.append(f"| {to_markdown(name)} | {value:,} |")
    return "\n".join(lines)


def _candidates(facts: CardFacts) -> str:
    lines = ["| texts | kept | dropped | without a verdict | noise ratio |", "|---|---:|---:|---:|---:|"]
    for origin in sorted(facts.candidates, reverse=True):  # web before synthetic
        counts = facts.candidates[origin]
        kept, dropped = counts.get("kept", 0), counts.get("dropped", 0)
        ratio = f"{dropped / (kept + dropped):.3f}" if kept + dropped else "-"
        lines.append(f"| {origin} | {kept:,} | {dropped:,} | {counts.get('unjudged', 0):,} | {ratio} |")
    return "\n".join(lines)


def _models(facts: CardFacts) -> str:
    lines = [
        f"* {role}: {to_markdown(facts.checkpoints[role])}, digest `{digest}`"
        for role, digest in sorted(facts.models.items())
    ]
    lines.append(f"* A text was kept if its ITM probability was at least {facts.threshold}.")
    return "\n".join(lines)


def _hosts(facts: CardFacts) -> str:
    if not facts.hosts:
        return "The images have no web addresses."
    shown = f"The {len(facts.top_hosts):,} with most images of {facts.hosts:,} hosts"
    return f"{shown}:\n\n{_table(('host', 'stored images'), dict(facts.top_hosts))}"


def _optouts(facts: CardFacts) -> str:
    robots = "was obeyed" if facts.fetch["robots"] else "was not obeyed for all sources"
    headers = ", ".join(f"`{name}`" for name in facts.fetch["optout"])
    tags = (
        f"Images whose `X-Robots-Tag` had {headers} were left out." if headers else "No header was honored."
    )
    return f"robots.txt {robots} when images were downloaded. {tags}"
