"""The card as README.md in the form of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from capfilt import __version__
from capfilt.pipeline.card.facts import CardFacts
from capfilt.pipeline.evaluation.intervals import wilson_interval
from capfilt.pipeline.report.formats.values import to_printable

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
         (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"), (1_000_000_000, "100M<n<1B"))  # fmt: skip
OPTOUT_STATUSES = {"robots": "robots.txt", "optout": "another opt-out of the site"}
"""Status of a row that an opt-out has ended → who asked for it."""
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
        "## Licenses",
        _licenses(facts),
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
    lines = [
        "| texts | kept | dropped | without a verdict | noise ratio | 95 % interval |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for origin in sorted(facts.candidates, reverse=True):  # web before synthetic
        counts = facts.candidates[origin]
        kept, dropped = counts.get("kept", 0), counts.get("dropped", 0)
        interval = wilson_interval(dropped, kept + dropped)
        ratio = "-" if interval is None else f"{dropped / (kept + dropped):.3f}"
        limits = "-" if interval is None else "{:.3f} to {:.3f}".format(*interval)
        numbers = f"{kept:,} | {dropped:,} | {counts.get('unjudged', 0):,} | {ratio} | {limits}"
        lines.append(f"| {origin} | {numbers} |")
    note = (
        "The noise ratio is the share of judged texts that the filter dropped, with its Wilson interval. "
        "Dropped texts stay among the candidates, with `kept` false; no export has them."
    )
    return "\n".join([*lines, "", note])


def _models(facts: CardFacts) -> str:
    lines = [
        f"* {role}: {to_markdown(facts.checkpoints[role])}, digest `{digest}`"
        for role, digest in sorted(facts.models.items())
    ]
    if facts.foreign:
        names = ", ".join(to_markdown(name) for name in facts.foreign)
        lines.append(f"* captions from elsewhere, by the name of their captioner: {names}")
    lines.append(f"* A text was kept if its ITM probability was at least {facts.threshold}.")
    return "\n".join(lines)


def _hosts(facts: CardFacts) -> str:
    if not facts.hosts:
        return "The images have no web addresses."
    shown = f"{len(facts.top_hosts):,} of {facts.hosts:,} hosts, those with most images"
    covered = sum(n for _, n in facts.top_hosts) / facts.images
    lines = ["| host | stored images | share |", "|---|---:|---:|"]
    for host, n in facts.top_hosts:
        lines.append(f"| {to_markdown(host)} | {n:,} | {n / facts.images:.2%} |")
    note = (
        f"{shown}; they have {covered:.1%} of the {facts.images:,} images with a web address. "
        "The EU's template for the public summary of training content asks for the top 10 % of the domains "
        "by amount of content."
    )
    return "\n".join([note, "", *lines])


def _optouts(facts: CardFacts) -> str:
    if not facts.hosts and not any(facts.status.get(name) for name in OPTOUT_STATUSES):
        return "No image has a web address, so no host could be asked."
    robots = "was obeyed" if facts.fetch["robots"] else "was not obeyed for all sources"
    headers = ", ".join(f"`{name}`" for name in facts.fetch["optout"])
    tags = (
        f"Images whose `X-Robots-Tag` had {headers} were left out."
        if headers
        else "No `X-Robots-Tag` was honored."
    )
    counts = {what: facts.status.get(status, 0) for status, what in OPTOUT_STATUSES.items()}
    table = _table(("left out because of", "rows"), counts)
    names = ", ".join(f"`{name}`" for name in facts.fetch["signals"])
    signals = f" So were images that the site reserves with {names}." if names else ""
    return f"robots.txt {robots} when images were downloaded. {tags}{signals}\n\n{table}"


def _licenses(facts: CardFacts) -> str:
    if not facts.licenses:
        return (
            "The rows of the run brought no license. That says nothing about the rights to images and texts."
        )
    parts = []
    for table in facts.licenses:
        lines = [f"| {to_markdown(table.column)} | images | kept texts |", "|---|---:|---:|"]
        for value, images, texts in table.rows:
            shown = "none given" if value is None or not value.strip() else to_markdown(value)
            lines.append(f"| {shown} | {images:,} | {texts:,} |")
        more = [f"\n{table.others:,} further licenses are not listed."] if table.others else []
        parts.append("\n".join([*lines, *more]))
    note = "As the rows of the manifests say; nobody has checked it. Images with a kept text count."
    return "\n\n".join([note, *parts])
