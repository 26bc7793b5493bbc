"""Accepted and rejected examples with their pictures, as the paper's Figure 4."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from capfilt.models.images.decode import decode_image
from capfilt.pipeline.report.tables import Candidate, Example

THUMBNAIL = 360
"""Longer side of a picture on the page, pixels."""
TEXT_SHOWN = 240
"""Characters of a text that are shown."""
COPIED_SHOWN = 8
"""Pictures with most copies that are shown."""
TEXTS_SHOWN = 6
"""Texts of an image that are shown."""

PAIRS_OF_VERDICTS = ("dropped/kept", "kept/kept", "kept/dropped", "dropped/dropped")
"""Verdicts on web / synthetic text: the four cases of the paper's Figure 4."""

SECTIONS = {
    "dropped/kept": (
        "Web text rejected, synthetic accepted",
        "What CapFilt is for: the caption takes the place.",
    ),
    "kept/kept": ("Both accepted", "The image keeps its text and gains another."),
    "kept/dropped": (
        "Web text accepted, synthetic rejected",
        "The captioner was wrong, or was judged to be.",
    ),
    "dropped/dropped": ("Both rejected", "The image leaves the corpus."),
    "kept/none": ("Web text accepted", "No caption was judged."),
    "dropped/none": ("Web text rejected", "No caption was judged."),
    "none/kept": ("Synthetic accepted", "There was no web text to judge."),
    "none/dropped": ("Synthetic rejected", "There was no web text to judge."),
    "false alarm": ("Clean, yet rejected", "The filter's surest mistakes on texts planted as clean."),
    "miss": ("Noise, yet accepted", "The filter's surest mistakes on texts planted as noise."),
    "close call": ("Close calls", "Nearest to the threshold: these turn first when it moves."),
}


@dataclass(frozen=True)
class Card:
    """One picture and its texts."""

    picture: str | None
    """data: URI, or None when the image cannot be read."""
    pixelated: bool
    """The stored image is smaller than the card, and is shown as its pixels."""
    source: str
    key: str
    size: str
    candidates: list[Candidate]
    hidden: int
    """Texts that are not shown."""


@dataclass(frozen=True)
class Section:
    """A group of cards with a reason."""

    title: str
    note: str
    cards: list[Card]


def gallery(examples: Sequence[Example], read_image: Callable[[str, str], bytes | None]) -> list[Section]:
    """The examples as cards, in the order of `SECTIONS`; sections without an example are left out."""
    sections = []
    for name, (title, note) in SECTIONS.items():
        cards = [_card(e, read_image(e.source, e.key)) for e in examples if e.section == name]
        if cards:
            sections.append(Section(title, note, cards))
    return sections


@dataclass(frozen=True)
class DuplicateCard:
    """A picture that came many times."""

    picture: str | None
    pixelated: bool
    row: Mapping[str, Any]
    """As `pipeline.nodes.duplicates.most_copied_images` lists it."""


def duplicate_cards(
    rows: Sequence[Mapping[str, Any]], read_image: Callable[[str, str], bytes | None]
) -> list[DuplicateCard]:
    """The first of these pictures, to look at."""
    found = []
    for row in rows[:COPIED_SHOWN]:
        image = read_image(row["source"], row["key"])
        picture, pixelated = thumbnail(image) if image is not None else (None, False)
        found.append(DuplicateCard(picture, pixelated, row))
    return found


def _card(example: Example, image: bytes | None) -> Card:
    picture, pixelated = thumbnail(image) if image is not None else (None, False)
    return Card(
        picture=picture,
        pixelated=pixelated,
        source=example.source,
        key=example.key,
        size=f"{example.width}×{example.height}" if example.width and example.height else "",
        candidates=example.candidates[:TEXTS_SHOWN],
        hidden=max(0, len(example.candidates) - TEXTS_SHOWN),
    )


def thumbnail(data: bytes) -> tuple[str | None, bool]:
    """A picture as a data: URI, re-encoded, so that nothing of the file but its pixels reaches the page.

    Returns:
        (URI, whether it is small enough to be shown as pixels); (None, False) for bytes that are no picture.
    """
    try:
        image = decode_image(data)
    except ValueError:
        return None, False
    small = max(image.size) <= THUMBNAIL // 2
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    if small:
        image.save(sink, "PNG", optimize=True)
    else:
        image.save(sink, "JPEG", quality=82, optimize=True)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(sink.getvalue()).decode()}", small


def printable(text: str, limit: int = TEXT_SHOWN) -> str:
    """A text as it may stand on a page: control and direction characters made visible, cut at `limit`."""
    shown = "".join("\N{REPLACEMENT CHARACTER}" if _invisible(c) else c for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 1].rstrip() + "…"


def _invisible(character: str) -> bool:
    """Controls that are no blanks, surrogates and the marks that turn the direction of what follows; joiners are letters' own."""
    return (
        (unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r")
        or "\u202a" <= character <= "\u202e"
        or ("\u2066" <= character <= "\u2069")
    )
