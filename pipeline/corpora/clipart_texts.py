"""Rules for the texts of the clip-art corpus: equal texts, boilerplate, swapped texts, held-out texts.

Everything here is a pure function of entries; no file is read.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

MIN_REPEATS = 5
"""A text that so many images share is not regarded as a description of each of them."""
BOILERPLATE = re.compile(
    r"\b(?:gramastar|collection|(?:svg|gold|icon) theme|iconset|icons|cliparts?(?! by)|symbol signs"
    r"|map symbols|road signs|maps|sibmission|advertising)\b"
)
"""Words in repeated texts (after `normalize_text`) that name the origin of an image. The list was made from
the 80 texts that `MIN_REPEATS` images or more share. The others of them, such as "people", "stick man" or
"hat - clothing", are mostly true."""
UNSURE = re.compile(
    r"clip ?art by|@|https?:|www\.|\bHASH\(|[a-z]_[a-z0-9]|\.(?:svg|png|gif|jpe?g)\b", re.IGNORECASE
)
"""Credits, addresses and file names: a text with one of them may or may not describe its image."""
MAX_WORDS = 30
"""Longer texts are about the history of the subject more than about the image."""


@dataclass(frozen=True)
class Entry:
    """One drawing of a package and its text."""

    path: Path
    name: str
    """Path relative to the root of the package; the only input of random choices about the entry."""
    text: str
    truth: str | None = None


def normalize_text(text: str) -> str:
    """Reduce a text to what makes it equal to another one: lower-case letters without a leading article."""
    words = re.sub(r"[\W\d_]+", " ", text.lower()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def join_texts(title: str, description: str) -> str:
    """Title and description as one text, without a description that repeats the title."""
    if not title or not description or normalize_text(title) == normalize_text(description):
        return title or description
    return f"{title.rstrip('.')}. {description}"


def classify_texts(entries: list[Entry]) -> list[Entry]:
    """The entries with `truth` set to boilerplate, clean or None, by the rules of `clipart.make_clipart`."""
    shared = Counter(normalize_text(entry.text) for entry in entries)

    def classify(text: str) -> str | None:
        if shared[normalize_text(text)] >= MIN_REPEATS:
            return "boilerplate" if BOILERPLATE.search(normalize_text(text)) else None
        unsure = UNSURE.search(text) or len(text.split()) > MAX_WORDS or not normalize_text(text)
        return None if unsure else "clean"

    return [replace(entry, truth=classify(entry.text)) for entry in entries]


def limit_repeats(entries: Iterable[Entry], limit: int) -> list[Entry]:
    """The first `limit` entries of each text."""
    seen: Counter[str] = Counter()
    kept = []
    for entry in entries:
        text = normalize_text(entry.text)
        seen[text] += 1
        if seen[text] <= limit:
            kept.append(entry)
    return kept


def swap_texts(entries: list[Entry], share: float) -> list[Entry]:
    """Swap the texts of `share` of the entries among each other and set their truth to "swapped".

    Only clean entries are swapped. Every text stays in the corpus exactly once, so that a swapped text cannot
    be recognized by its words alone.

    Raises:
        ValueError: there are not enough clean entries.
    """
    clean = [number for number, entry in enumerate(entries) if entry.truth == "clean"]
    count = round(share * len(entries))
    if count > len(clean):
        raise ValueError(
            f"swapped {share}: {count} clean texts are needed, but there are only {len(clean)}; lower it"
        )
    # In order of the texts, a shift by half the length gives each entry another text, unless one text makes
    # up more than half of them.
    chosen = sorted(clean[:count], key=lambda number: normalize_text(entries[number].text))
    result = list(entries)
    for place, number in enumerate(chosen):
        own, other = entries[number], entries[chosen[(place + count // 2) % count]]
        if normalize_text(own.text) != normalize_text(other.text):
            result[number] = replace(own, text=other.text, truth="swapped")
    return result


def split_human(entries: list[Entry], test: int) -> tuple[list[Entry], list[Entry]]:
    """Split off one entry for each of `test` different texts.

    Returns:
        (train, test): the other entries with one of the test texts are in neither.
    """
    held_out: dict[str, Entry] = {}
    for entry in entries:
        if len(held_out) < test:
            held_out.setdefault(normalize_text(entry.text), entry)
    train = [entry for entry in entries if normalize_text(entry.text) not in held_out]
    return train, list(held_out.values())


def shuffle_entries(entries: list[Entry], seed: int) -> list[Entry]:
    """The entries in an order that depends only on the seed and their names."""
    return sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}/{entry.name}".encode()).digest())
