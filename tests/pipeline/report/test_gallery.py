"""Thumbnails, printable texts and cards."""

import base64
import io
from dataclasses import replace

import pytest
from PIL import Image

from capfilt.pipeline.report.examples import Candidate, Example
from capfilt.pipeline.report.gallery import (
    SECTIONS,
    VERDICT_PAIRS,
    build_duplicate_cards,
    build_gallery,
    encode_thumbnail,
    select_highlights,
    to_printable,
)


def encode_image(width: int, height: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(sink, "JPEG", comment=b"private note")
    return sink.getvalue()


def decode_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def make_example(section: str, key: str = "1", texts: int = 1) -> Example:
    candidate = Candidate("web", "a text", 0.5, 0.3, True, (), None)
    return Example(section, "a", key, 640, 480, [candidate] * texts)


def test_invisible_characters_are_replaced() -> None:
    replaced = "\N{REPLACEMENT CHARACTER}"
    assert to_printable("a\tb\x00c\u2066d\ud800") == f"a\tb{replaced}c{replaced}d{replaced}"
    assert to_printable("\u2029\u202a\u202e\u202f") == f"\u2029{replaced}{replaced}\u202f"
    assert to_printable("\u2065\u2066\u2069\u206a") == f"\u2065{replaced}{replaced}\u206a"
    assert to_printable("line\nநி\u200d👩\u200d🚀") == "line\nநி\u200d👩\u200d🚀"


def test_long_text_is_cut_with_an_ellipsis() -> None:
    assert to_printable("x" * 300, limit=10) == "x" * 9 + "…"
    assert to_printable("x" * 11, limit=10) == "x" * 9 + "…"
    assert to_printable("x" * 10, limit=10) == "x" * 10
    assert to_printable("xxxx  xxxx", limit=7) == "xxxx…"
    assert to_printable("x" * 240) == "x" * 240 and len(to_printable("x" * 241)) == 240


def test_thumbnail_is_re_encoded_without_metadata() -> None:
    thumbnail = encode_thumbnail(encode_image(2000, 1000))
    assert thumbnail is not None and thumbnail.uri.startswith("data:image/jpeg;base64,")
    assert not thumbnail.is_pixelated and len(thumbnail.uri) < 20_000
    image = decode_uri(thumbnail.uri)
    assert image.size == (360, 180) and "comment" not in image.info


@pytest.mark.parametrize(("side", "kind", "is_pixelated"), [(180, "png", True), (181, "jpeg", False)])
def test_small_image_is_shown_by_its_pixels(side: int, kind: str, is_pixelated: bool) -> None:
    thumbnail = encode_thumbnail(encode_image(20, side))
    assert thumbnail is not None and thumbnail.uri.startswith(f"data:image/{kind};base64,")
    assert thumbnail.is_pixelated == is_pixelated
    assert decode_uri(thumbnail.uri).size == (20, side)


def test_bytes_that_are_no_image_have_no_thumbnail() -> None:
    assert encode_thumbnail(b"<svg onload=alert(1)>") is None
    assert encode_thumbnail(None) is None


@pytest.mark.parametrize(("texts", "shown", "hidden"), [(5, 5, 0), (6, 6, 0), (7, 6, 1), (20, 6, 14)])
def test_card_shows_the_first_texts_of_an_image(texts: int, shown: int, hidden: int) -> None:
    (section,) = build_gallery([make_example("kept/kept", texts=texts)], lambda source, key: None)
    (card,) = section.cards
    assert (len(card.candidates), card.hidden, card.image) == (shown, hidden, None)
    assert card.size == "640×480"


@pytest.mark.parametrize(("width", "height"), [(None, 480), (640, None), (None, None)])
def test_card_without_a_known_size_shows_none(width: int | None, height: int | None) -> None:
    example = replace(make_example("kept/kept"), width=width, height=height)
    (section,) = build_gallery([example], lambda source, key: None)
    assert section.cards[0].size == ""


def test_gallery_has_its_sections_in_order_and_no_empty_ones() -> None:
    examples = [make_example("miss"), make_example("kept/kept", "1"), make_example("kept/kept", "2")]
    sections = build_gallery(examples, lambda source, key: None)
    assert [section.title for section in sections] == [SECTIONS["kept/kept"][0], SECTIONS["miss"][0]]
    assert [card.key for card in sections[0].cards] == ["1", "2"]


def test_highlights_are_the_first_readable_images_of_all_four_pairs_of_verdicts() -> None:
    examples = [make_example(name, key) for name in VERDICT_PAIRS for key in ("1", "2", "3")]
    image = encode_image(8, 8)
    sections = build_gallery(examples, lambda source, key: None if key == "1" else image)
    highlights = select_highlights(sections)
    assert [title for title, _ in highlights] == [SECTIONS[name][0] for name in VERDICT_PAIRS]
    assert [card.key for _, card in highlights] == ["2"] * 4
    assert select_highlights(sections[1:]) == [], "one pair has no image"


def test_the_eight_most_copied_images_are_shown() -> None:
    rows = [{"source": "a", "key": str(i), "copies": 100 - i} for i in range(9)]
    cards = build_duplicate_cards(rows, lambda source, key: encode_image(8, 8) if key == "1" else None)
    assert [card.row["key"] for card in cards] == [str(i) for i in range(8)]
    assert [card.image is not None for card in cards] == [False, True] + [False] * 6
