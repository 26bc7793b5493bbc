"""Example images with their kept and dropped texts, as in Figure 4 of the paper; the most copied images."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from capfilt.pipeline.report.formats.addresses import ShownAddress, show_address
from capfilt.pipeline.report.formats.values import to_printable
from capfilt.pipeline.report.gallery.examples import Candidate, Example
from capfilt.pipeline.report.gallery.thumbnails import Place, Thumbnail, Thumbnails

MAX_CARD_BYTES = 1_200_000
"""Bytes of all cards without their images. Cards that do not fit are left out, as many in every group."""
CARD_MARKUP, TEXT_MARKUP = 800, 600
"""Upper bounds of the bytes that the templates add to a card, and to each of its texts."""
MAX_DUPLICATES = 8
"""Most copied images that are shown."""
MAX_TEXTS = 6
"""Texts of an image that are shown."""

VERDICT_PAIRS = ("dropped/kept", "kept/kept", "kept/dropped", "dropped/dropped")
"""Verdicts on web / synthetic text: the four cases of the paper's Figure 4."""

SECTIONS = {
    "dropped/kept": (
        "Web text dropped, synthetic text kept",
        "The purpose of CapFilt: a caption replaces a noisy text.",
    ),
    "kept/kept": ("Both texts kept", "The image keeps its text and gains a caption."),
    "kept/dropped": ("Web text kept, synthetic text dropped", "The filter rejected the caption."),
    "dropped/dropped": (
        "Both texts dropped",
        "No training on the kept texts of this round uses the image. "
        "It stays in the corpus, and both texts stay among the candidates, with kept = false.",
    ),
    "kept/none": ("Web text kept", "No caption was judged."),
    "dropped/none": ("Web text dropped", "No caption was judged."),
    "none/kept": ("Synthetic text kept", "No web text was judged."),
    "none/dropped": ("Synthetic text dropped", "No web text was judged."),
    "false alarm": ("Clean texts that were dropped", "Clean texts with the lowest ITM probabilities."),
    "miss": ("Noise that was kept", "Planted noise with the highest ITM probabilities."),
    "close call": ("Close to the threshold", "The verdicts that change first when the threshold changes."),
}
"""Section of an example (`examples.select_examples`) → title and note, in the order of the page. Sections of
flags come after these."""
FLAGS = {
    "empty": "The text has no word.",
    "duplicate": "The text equals an earlier text of its image.",
    "degenerate": "A word three times in a row, or eight words and more of at most two kinds.",
    "boilerplate": "A file name, a stock phrase of web pages, or a date or number alone.",
    "not_caption": "A url, an e-mail address, a price or a telephone number is in the text.",
    "duplicate_image": "The image has more copies than the limit, and this copy is one of the surplus.",
}
"""Notes on the flags."""
BORDERLINE = 0.05
"""Distance from the threshold up to which a verdict counts as borderline."""
FILTERS = {
    "web-dropped": "web text dropped",
    "synthetic-dropped": "synthetic text dropped",
    "disagree": "web and synthetic text disagree",
    "borderline": "borderline",
}
"""Kind of a card → label of the filter that shows only such cards. Filters of flags come after these."""


@dataclass(frozen=True)
class Card:
    """One image and its texts."""

    image: Thumbnail | None
    """None when the image cannot be read."""
    source: str
    key: str
    size: str
    """"width×height" in pixels, or "" when unknown."""
    address: ShownAddress | None
    """None when the image has none."""
    candidates: list[Candidate]
    """The texts that are shown."""
    hidden: int
    """Number of texts that are not shown."""
    kinds: list[str]
    """Filters that show the card: keys of `FILTERS`, and "flag-<name>"."""


@dataclass(frozen=True)
class DuplicateCard:
    """One image of which the corpus holds many copies."""

    image: Thumbnail | None
    """None when the image cannot be read."""
    row: Mapping[str, Any]
    """A row of `pipeline.nodes.duplicates.most_copied_images`."""
    address: ShownAddress | None
    """Address of the first copy; None when it has none."""


@dataclass(frozen=True)
class Section:
    """Cards that were chosen for the same reason."""

    title: str
    note: str
    cards: list[Card]


@dataclass(frozen=True)
class GalleryFilter:
    """A choice to show only some of the cards."""

    kind: str
    label: str
    cards: int


def fit_examples(examples: Sequence[Example]) -> list[Example]:
    """As many examples of each section as fit on the page, the same number of each; the first ones stay."""
    places: Counter[str] = Counter()
    by_place: dict[int, list[Example]] = {}
    for example in examples:
        by_place.setdefault(places[example.section], []).append(example)
        places[example.section] += 1
    left, fitting = MAX_CARD_BYTES, -1
    for place, of_place in by_place.items():
        left -= sum(map(_estimate_bytes, of_place))
        if left < 0:
            break
        fitting = place
    places.clear()
    kept = []
    for example in examples:
        if places[example.section] <= fitting:
            kept.append(example)
        places[example.section] += 1
    return kept


def _estimate_bytes(example: Example) -> int:
    """Upper bound of the bytes of a card without its image."""
    address = show_address(example.url)
    shown = [to_printable(candidate.text) for candidate in example.candidates[:MAX_TEXTS]]
    shown += [] if address is None else [to_printable(address.text), address.text if address.is_link else ""]
    return (
        CARD_MARKUP
        + TEXT_MARKUP * min(len(example.candidates), MAX_TEXTS)
        + sum(len(html.escape(text).encode(errors="replace")) for text in shown)
    )


def build_gallery(examples: Sequence[Example], thumbnails: Thumbnails) -> list[Section]:
    """Group the examples into the sections of `SECTIONS` and of flags; empty sections are left out."""
    names = dict.fromkeys([*SECTIONS, *(f"flag: {flag}" for flag in FLAGS), *(e.section for e in examples)])
    sections = []
    for name in names:
        found = [e for e in examples if e.section == name]
        if found:
            flag = name.removeprefix("flag: ")
            title, note = SECTIONS.get(name) or (f"Flag {flag}", FLAGS.get(flag, ""))
            cards = [_build_card(e, thumbnails.get((e.source, e.key))) for e in found]
            sections.append(Section(title, note, cards))
    return sections


def gallery_filters(sections: Sequence[Section]) -> list[GalleryFilter]:
    """The filters that show at least one card."""
    counts = Counter(kind for section in sections for card in section.cards for kind in card.kinds)
    labels = FILTERS | {f"flag-{flag}": f"flag {flag}" for flag in FLAGS}
    return [GalleryFilter(kind, label, counts[kind]) for kind, label in labels.items() if counts[kind]]


def build_duplicate_cards(
    rows: Sequence[Mapping[str, Any]], thumbnails: Thumbnails, urls: Mapping[Place, str | None]
) -> list[DuplicateCard]:
    """Cards of the most copied images."""
    cards = []
    for row in rows:
        place = (row["source"], row["key"])
        cards.append(DuplicateCard(thumbnails.get(place), row, show_address(urls.get(place))))
    return cards


def select_highlights(sections: Sequence[Section]) -> list[tuple[str, Card]]:
    """Choose the first readable image of each pair of verdicts, for the top of the page.

    Returns:
        [(title, card)] for all four `VERDICT_PAIRS`; [] when one of them has no readable image.
    """
    readable = {
        section.title: [card for card in section.cards if card.image is not None and card.image.uri]
        for section in sections
    }
    titles = [SECTIONS[name][0] for name in VERDICT_PAIRS]
    found = [(title, readable[title][0]) for title in titles if readable.get(title)]
    return found if len(found) == len(VERDICT_PAIRS) else []


def _build_card(example: Example, image: Thumbnail | None) -> Card:
    return Card(
        image=image,
        source=example.source,
        key=example.key,
        size=f"{example.width}×{example.height}" if example.width and example.height else "",
        address=show_address(example.url),
        candidates=example.candidates[:MAX_TEXTS],
        hidden=max(0, len(example.candidates) - MAX_TEXTS),
        kinds=_card_kinds(example.candidates),
    )


def _card_kinds(candidates: Sequence[Candidate]) -> list[str]:
    """The filters (`Card.kinds`) that show an image with these texts. Only known flags have a filter."""
    kept = {
        origin: {c.kept for c in candidates if c.origin == origin and c.kept is not None}
        for origin in ("web", "synthetic")
    }
    found = [f"{origin}-dropped" for origin, verdicts in kept.items() if False in verdicts]
    if all(kept.values()) and (True in kept["web"]) != (True in kept["synthetic"]):
        found.append("disagree")
    if any(c.distance is not None and c.distance <= BORDERLINE for c in candidates):
        found.append("borderline")
    return found + [f"flag-{flag}" for flag in FLAGS if any(flag in c.flags for c in candidates)]
