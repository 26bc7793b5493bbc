"""The texts of the clip-art corpus: which are the same, which say nothing, which are exchanged, which are held out.

Pure functions over entries; nothing is read or drawn here.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

REPEATED_FROM = 5  # pictures that share a text, from which it is no longer taken for the description of one
BOILERPLATE = re.compile(
    r"\b(?:gramastar|collection|(?:svg|gold|icon) theme|iconset|icons|cliparts?(?! by)|symbol signs|map symbols"
    r"|road signs|maps|sibmission|advertising)\b"
)
"""Words of repeated texts (see `normal_text`) that name where a picture came from. The list was read off the 80 texts
that five pictures or more share; the others of them are "people", "stick man", "hat - clothing": mostly true."""
UNSURE = re.compile(
    r"clip ?art by|@|https?:|www\.|\bHASH\(|[a-z]_[a-z0-9]|\.(?:svg|png|gif|jpe?g)\b", re.IGNORECASE
)
"""Credits, addresses and file names: such a text may describe its picture or not."""
LONG = 30  # words; uploaders' longer texts are about the subject's history more than about the picture


@dataclass(frozen=True)
class Entry:
    """One drawing of a package and its text."""

    path: Path
    name: str
    """Path below the package's root: what everything random about the entry hangs on."""
    text: str
    truth: str | None = None


def normal_text(text: str) -> str:
    """What makes two texts the same one: letters only, lower case, without a leading article."""
    words = re.sub(r"[\W\d_]+", " ", text.lower()).split()
    return " ".join(words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words)


def web_text(title: str, description: str) -> str:
    """Title and description as one text, the description left out where it only says the title again."""
    if not title or not description or normal_text(title) == normal_text(description):
        return title or description
    return f"{title.rstrip('.')}. {description}"


def classify(entries: list[Entry]) -> list[Entry]:
    """The entries with `truth` set to boilerplate, clean or None by the rules of `make_clipart`."""
    shared = Counter(normal_text(entry.text) for entry in entries)

    def truth(text: str) -> str | None:
        if shared[normal_text(text)] >= REPEATED_FROM:
            return "boilerplate" if BOILERPLATE.search(normal_text(text)) else None
        unsure = UNSURE.search(text) or len(text.split()) > LONG or not normal_text(text)
        return None if unsure else "clean"

    return [Entry(e.path, e.name, e.text, truth(e.text)) for e in entries]


def limit_repeats(entries: Iterable[Entry], limit: int) -> list[Entry]:
    """The entries without those whose text `limit` earlier ones have."""
    seen: Counter[str] = Counter()
    kept = []
    for entry in entries:
        text = normal_text(entry.text)
        seen[text] += 1
        if seen[text] <= limit:
            kept.append(entry)
    return kept


def swap_texts(entries: list[Entry], share: float) -> list[Entry]:
    """The entries with the texts of `share` of them exchanged, among those that are `clean`; truth `swapped`.

    Every text stays in the corpus once, so words alone do not give an exchanged one away.

    Raises:
        ValueError: there are not so many clean texts.
    """
    clean = [number for number, entry in enumerate(entries) if entry.truth == "clean"]
    count = round(share * len(entries))
    if count > len(clean):
        raise ValueError(f"swapped {share}: {count} texts, but only {len(clean)} are clean; lower it")
    # By text, so that half a turn gives everyone another text as long as none makes up half of them.
    chosen = sorted(clean[:count], key=lambda number: normal_text(entries[number].text))
    result = list(entries)
    for place, number in enumerate(chosen):
        own, other = entries[number], entries[chosen[(place + count // 2) % count]]
        if normal_text(own.text) != normal_text(other.text):
            result[number] = Entry(own.path, own.name, other.text, "swapped")
    return result


def split_human(entries: list[Entry], test: int) -> tuple[list[Entry], list[Entry]]:
    """(train, test): one picture for each of `test` texts; what else has one of these texts is in neither."""
    held_out: dict[str, Entry] = {}
    for entry in entries:
        if len(held_out) < test:
            held_out.setdefault(normal_text(entry.text), entry)
    train = [entry for entry in entries if normal_text(entry.text) not in held_out]
    return train, list(held_out.values())


def shuffled(entries: list[Entry], seed: int) -> list[Entry]:
    """In an order that depends on seed and names alone."""
    return sorted(entries, key=lambda entry: hashlib.sha256(f"{seed}/{entry.name}".encode()).digest())
