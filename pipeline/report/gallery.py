"""Example images with their kept and dropped texts, as in Figure 4 of the paper; the most copied images."""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from capfilt.models.images.decode import decode_image
from capfilt.pipeline.report.examples import Candidate, Example

THUMBNAIL_SIDE = 360
"""Longer side of an image on the page, pixels."""
MAX_TEXT_LENGTH = 240
"""Characters of a text that are shown."""
MAX_DUPLICATES = 8
"""Most copied images that are shown."""
MAX_TEXTS = 6
"""Texts of an image that are shown."""

ReadImage = Callable[[str, str], bytes | None]
"""(source, key) → the stored image, encoded; None when there is none."""

VERDICT_PAIRS = ("dropped/kept", "kept/kept", "kept/dropped", "dropped/dropped")
"""Verdicts on web / synthetic text: the four cases of the paper's Figure 4."""

SECTIONS = {
    "dropped/kept": (
        "Web text dropped, synthetic text kept",
        "The purpose of CapFilt: a caption replaces a noisy text.",
    ),
    "kept/kept": ("Both texts kept", "The image keeps its text and gains a caption."),
    "kept/dropped": ("Web text kept, synthetic text dropped", "The filter rejected the caption."),
    "dropped/dropped": ("Both texts dropped", "The image is not used for training."),
    "kept/none": ("Web text kept", "No caption was judged."),
    "dropped/none": ("Web text dropped", "No caption was judged."),
    "none/kept": ("Synthetic text kept", "No web text was judged."),
    "none/dropped": ("Synthetic text dropped", "No web text was judged."),
    "false alarm": ("Clean texts that were dropped", "Clean texts with the lowest ITM probabilities."),
    "miss": ("Noise that was kept", "Planted noise with the highest ITM probabilities."),
    "close call": ("Close to the threshold", "The verdicts that change first when the threshold changes."),
}
"""Section of an example (`examples.select_examples`) → title and note, in the order of the page."""


@dataclass(frozen=True)
class Thumbnail:
    """A small copy of an image."""

    uri: str
    """data: URI."""
    is_pixelated: bool
    """The image is smaller than its card, and is shown enlarged without smoothing."""


@dataclass(frozen=True)
class Card:
    """One image and its texts."""

    image: Thumbnail | None
    """None when the image cannot be read."""
    source: str
    key: str
    size: str
    """"width×height" in pixels, or "" when unknown."""
    candidates: list[Candidate]
    """The texts that are shown."""
    hidden: int
    """Number of texts that are not shown."""


@dataclass(frozen=True)
class DuplicateCard:
    """One image of which the corpus holds many copies."""

    image: Thumbnail | None
    """None when the image cannot be read."""
    row: Mapping[str, Any]
    """A row of `pipeline.nodes.duplicates.most_copied_images`."""


@dataclass(frozen=True)
class Section:
    """Cards that were chosen for the same reason."""

    title: str
    note: str
    cards: list[Card]


def build_gallery(examples: Sequence[Example], read_image: ReadImage) -> list[Section]:
    """Group the examples into the sections of `SECTIONS`; a section without examples is left out."""
    sections = []
    for name, (title, note) in SECTIONS.items():
        cards = [_build_card(e, read_image(e.source, e.key)) for e in examples if e.section == name]
        if cards:
            sections.append(Section(title, note, cards))
    return sections


def build_duplicate_cards(rows: Sequence[Mapping[str, Any]], read_image: ReadImage) -> list[DuplicateCard]:
    """Cards of the first `MAX_DUPLICATES` rows."""
    return [
        DuplicateCard(encode_thumbnail(read_image(row["source"], row["key"])), row)
        for row in rows[:MAX_DUPLICATES]
    ]


def select_highlights(sections: Sequence[Section]) -> list[tuple[str, Card]]:
    """Choose the first readable image of each pair of verdicts, for the top of the page.

    Returns:
        [(title, card)] for all four `VERDICT_PAIRS`; [] when one of them has no readable image.
    """
    readable = {
        section.title: [card for card in section.cards if card.image is not None] for section in sections
    }
    titles = [SECTIONS[name][0] for name in VERDICT_PAIRS]
    found = [(title, readable[title][0]) for title in titles if readable.get(title)]
    return found if len(found) == len(VERDICT_PAIRS) else []


def _build_card(example: Example, image: bytes | None) -> Card:
    return Card(
        image=encode_thumbnail(image),
        source=example.source,
        key=example.key,
        size=f"{example.width}×{example.height}" if example.width and example.height else "",
        candidates=example.candidates[:MAX_TEXTS],
        hidden=max(0, len(example.candidates) - MAX_TEXTS),
    )


def encode_thumbnail(data: bytes | None) -> Thumbnail | None:
    """Re-encode an image as a small data: URI, so that only its pixels reach the page.

    Returns:
        None when there is no data or the data is not an image.
    """
    if data is None:
        return None
    try:
        image = decode_image(data)
    except ValueError:
        return None
    is_small = max(image.size) <= THUMBNAIL_SIDE // 2
    image.info.clear()  # Pillow would copy comments and color profiles into the new file
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    if is_small:
        image.save(sink, "PNG", optimize=True)
    else:
        image.save(sink, "JPEG", quality=82, optimize=True)
    kind = "png" if is_small else "jpeg"
    encoded = base64.b64encode(sink.getvalue()).decode()
    return Thumbnail(f"data:image/{kind};base64,{encoded}", is_pixelated=is_small)


def to_printable(text: str, limit: int = MAX_TEXT_LENGTH) -> str:
    """A text with its invisible characters replaced by U+FFFD, cut to `limit` characters with an ellipsis."""
    printable = "".join(
        "\N{REPLACEMENT CHARACTER}" if _is_invisible(character) else character
        for character in text[: limit + 1]
    )
    return printable if len(printable) <= limit else printable[: limit - 1].rstrip() + "…"


def _is_invisible(character: str) -> bool:
    """Whether a character is a control other than white space, a surrogate, or a direction mark.

    Zero-width joiners are part of words and emoji, and do not count.
    """
    return (
        (unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r")
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )
