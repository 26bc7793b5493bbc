"""Thumbnails and cards."""

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capfilt.pipeline.report.gallery import cards as cards_module
from capfilt.pipeline.report.gallery import thumbnails
from capfilt.pipeline.report.gallery.cards import (
    SECTIONS,
    VERDICT_PAIRS,
    build_duplicate_cards,
    build_gallery,
    fit_examples,
    gallery_filters,
    select_highlights,
)
from capfilt.pipeline.report.gallery.examples import Candidate, Example
from capfilt.pipeline.report.gallery.thumbnails import Thumbnail, encode_thumbnail, encode_thumbnails


def encode_image(width: int, height: int) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(sink, "JPEG", comment=b"private note")
    return sink.getvalue()


def decode_uri(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2])))


def make_example(section: str, key: str = "1", texts: int = 1) -> Example:
    candidate = Candidate("web", "a text", 0.5, 0.3, True, (), None)
    return Example(section, "a", key, 640, 480, "http://h.example/1.jpg", [candidate] * texts)


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
    (section,) = build_gallery([make_example("kept/kept", texts=texts)], {})
    (card,) = section.cards
    assert (len(card.candidates), card.hidden, card.image) == (shown, hidden, None)
    assert card.size == "640×480" and card.address is not None and card.address.host == "h.example"


@pytest.mark.parametrize(("width", "height"), [(None, 480), (640, None), (None, None)])
def test_card_without_a_known_size_shows_none(width: int | None, height: int | None) -> None:
    example = replace(make_example("kept/kept"), width=width, height=height)
    (section,) = build_gallery([example], {})
    assert section.cards[0].size == ""


def test_gallery_has_its_sections_in_order_and_no_empty_ones() -> None:
    examples = [make_example("miss"), make_example("kept/kept", "1"), make_example("kept/kept", "2")]
    sections = build_gallery(examples, {})
    assert [section.title for section in sections] == [SECTIONS["kept/kept"][0], SECTIONS["miss"][0]]
    assert [card.key for card in sections[0].cards] == ["1", "2"]


def test_highlights_are_the_first_readable_images_of_all_four_pairs_of_verdicts() -> None:
    examples = [make_example(name, key) for name in VERDICT_PAIRS for key in ("1", "2", "3")]
    image = encode_thumbnail(encode_image(8, 8))
    sections = build_gallery(examples, {("a", "2"): image, ("a", "3"): image})
    highlights = select_highlights(sections)
    assert [title for title, _ in highlights] == [SECTIONS[name][0] for name in VERDICT_PAIRS]
    assert [card.key for _, card in highlights] == ["2"] * 4
    assert select_highlights(sections[1:]) == [], "one pair has no image"


def test_copies_are_shown_with_image_and_address() -> None:
    rows = [{"source": "a", "key": str(i), "copies": 100 - i} for i in range(3)]
    thumbnail = encode_thumbnail(encode_image(8, 8))
    cards = build_duplicate_cards(rows, {("a", "1"): thumbnail}, {("a", "2"): "http://h.example/2"})
    assert [card.row["key"] for card in cards] == ["0", "1", "2"]
    assert [card.image is not None for card in cards] == [False, True, False]
    assert [card.address and card.address.host for card in cards] == [None, None, "h.example"]


def noisy_image(seed: int) -> bytes:
    """An image that hardly compresses."""
    sink = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(sink, "JPEG", quality=95)
    return sink.getvalue()


def total_bytes(thumbnails: Mapping[tuple[str, str], Thumbnail | None], places: list[tuple[str, str]]) -> int:
    return sum(len(each.uri) for place in places if (each := thumbnails[place]) is not None)


@pytest.mark.parametrize(("places", "side"), [(1, 360), (5, 240), (12, 160), (40, 96)])
def test_images_are_shown_smaller_until_all_fit(
    monkeypatch: pytest.MonkeyPatch, places: int, side: int
) -> None:
    monkeypatch.setattr(thumbnails, "MAX_IMAGE_BYTES", 330_000)
    shown = [("a", str(i)) for i in range(places)]
    found = encode_thumbnails(shown, lambda source, key: noisy_image(int(key)))
    assert total_bytes(found, shown) <= 330_000
    sizes = {decode_uri(each.uri).size for each in found.values() if each is not None}
    assert sizes == {(side, side)} and not any(each and each.is_pixelated for each in found.values())


def test_images_that_do_not_fit_in_the_smallest_size_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thumbnails, "MAX_IMAGE_BYTES", 20_000)
    shown = [("a", str(i)) for i in range(6)] * 2
    found = encode_thumbnails(shown, lambda source, key: noisy_image(int(key)) if key != "1" else None)
    left_out = [key for (_, key), each in found.items() if each is not None and not each.uri]
    assert total_bytes(found, shown) <= 20_000 and found["a", "1"] is None
    assert left_out and left_out == sorted(left_out) and "0" not in left_out
    sections = build_gallery([make_example(name, left_out[-1]) for name in VERDICT_PAIRS], found)
    assert select_highlights(sections) == []


@pytest.mark.parametrize(
    ("web", "synthetic", "kinds"),
    [
        ((True, 0.2, ()), (True, 0.2, ()), []),
        ((False, 0.2, ()), (True, 0.2, ()), ["web-dropped", "disagree"]),
        ((True, 0.2, ()), (False, 0.2, ()), ["synthetic-dropped", "disagree"]),
        ((False, 0.2, ()), (False, 0.2, ()), ["web-dropped", "synthetic-dropped"]),
        ((None, None, ("empty",)), (False, 0.2, ()), ["synthetic-dropped", "flag-empty"]),
        ((True, 0.05, ()), (True, 0.2, ()), ["borderline"]),
        ((True, 0.051, ()), (True, 0.2, ("duplicate", "other flag")), ["flag-duplicate"]),
    ],
)
def test_filters_of_a_card(web: Any, synthetic: Any, kinds: list[str]) -> None:
    candidates = [
        Candidate(origin, "a text", 0.5, 0.3, kept, flags, None, distance)
        for origin, (kept, distance, flags) in (("web", web), ("synthetic", synthetic))
    ]
    example = replace(make_example("close call"), candidates=candidates)
    sections = build_gallery([example], {})
    assert sections[0].cards[0].kinds == kinds
    assert [(each.kind, each.cards) for each in gallery_filters(sections)] == [(kind, 1) for kind in kinds]


def test_flags_are_sections_after_the_others() -> None:
    names = ["flag: new <flag>", "flag: duplicate", "close call", "flag: empty"]
    sections = build_gallery([make_example(name) for name in names], {})
    assert [section.title for section in sections] == [
        SECTIONS["close call"][0], "Flag empty", "Flag duplicate", "Flag new <flag>",
    ]  # fmt: skip
    assert sections[1].note == "The text has no word." and sections[3].note == ""


def test_as_many_examples_of_every_section_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [make_example("kept/kept", str(number)) for number in range(5)]
    few = [make_example("miss", str(number)) for number in range(2)]
    size = cards_module._estimate_bytes(many[0])
    for cards, expected in [(7, 7), (6, 6), (5, 5), (4, 4), (3, 2), (2, 2), (1, 0)]:
        monkeypatch.setattr(cards_module, "MAX_CARD_BYTES", cards * size)
        shown = fit_examples([*many, *few])
        assert len(shown) == expected
        assert [e.key for e in shown if e.section == "miss"] == ["0", "1"][: (expected + 1) // 2]
