"""Rules for the texts of the clip-art corpus."""

from collections import Counter
from pathlib import Path

import pytest

from capfilt.pipeline.corpora.clipart_texts import (
    Entry,
    classify_texts,
    join_texts,
    limit_repeats,
    normalize_text,
    shuffle_entries,
    split_human,
    swap_texts,
)


def make_entries(*texts: str) -> list[Entry]:
    return [Entry(Path(f"{i}.svg"), f"{i}.svg", text) for i, text in enumerate(texts)]


def test_description_that_repeats_the_title_is_left_out() -> None:
    assert join_texts("Volley-ball", "volley ball") == "Volley-ball"
    assert join_texts("Einstein.", "HASH(0x89b)") == "Einstein. HASH(0x89b)"
    assert join_texts("", "only this") == "only this"


def test_normalized_text_has_no_case_punctuation_digits_or_article() -> None:
    assert normalize_text("A Flower.") == normalize_text("flower 12") == "flower"
    assert normalize_text("A") == "a" and normalize_text("17") == ""
    assert normalize_text("a cat") == "cat" and normalize_text("the cat sat") == "cat sat"
    assert normalize_text("Ñandú") == "ñandú"


def test_texts_are_classified_by_repeats_words_and_length() -> None:
    texts = [*["Icon theme 7"] * 5, *["people"] * 5, *["card"] * 4, "my icons"]
    unsure = ["Clipart by Ann - cat", "a.b@c.org cat", "red_cat_01", "17", "word " * 31]
    truths = [e.truth for e in classify_texts(make_entries(*texts, *unsure, "a cat", "word " * 30))]
    assert truths == ["boilerplate"] * 5 + [None] * 5 + ["clean"] * 5 + [None] * 5 + ["clean"] * 2


def test_repeats_are_limited() -> None:
    kept = limit_repeats(make_entries("Star 1", "moon", "star 2", "a star", "Moon"), 2)
    assert [e.text for e in kept] == ["Star 1", "moon", "star 2", "Moon"]


def test_swapped_texts_are_marked_and_all_others_unchanged() -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    before = classify_texts(make_entries(*[f"thing {letters[i % 26]}{'xyzw'[i // 26]}" for i in range(100)]))
    after = swap_texts(before, 0.3)
    assert Counter(e.truth for e in after) == {"clean": 70, "swapped": 30}
    assert sorted(e.text for e in after) == sorted(e.text for e in before)
    for old, new in zip(before, after, strict=True):
        assert (old.name, old.path) == (new.name, new.path)
        assert (normalize_text(old.text) != normalize_text(new.text)) == (new.truth == "swapped")


def test_swap_needs_enough_clean_texts() -> None:
    entries = classify_texts(make_entries(*["x theme"] * 6, "cat", "dog"))
    assert Counter(e.truth for e in swap_texts(entries, 0.25))["swapped"] == 2
    with pytest.raises(ValueError, match=r"swapped 0\.375: 3 clean texts are needed, but there are only 2"):
        swap_texts(entries, 0.375)


def test_no_text_is_swapped_with_an_equal_one() -> None:
    entries = classify_texts(make_entries("cat", "Cat.", "the cat", "a cat", "dog", "bird"))
    after = swap_texts(entries, 1)
    swapped = [(old, new) for old, new in zip(entries, after, strict=True) if new.truth == "swapped"]
    assert len(swapped) == 4, "two of the four cats get the texts of dog and bird"
    assert all(normalize_text(old.text) != normalize_text(new.text) for old, new in swapped)


def test_texts_of_test_are_not_in_train() -> None:
    train, test = split_human(make_entries("A cat.", "a dog", "the cat", "A fish.", "cat", "Dog"), 2)
    assert [e.text for e in test] == ["A cat.", "a dog"] and [e.text for e in train] == ["A fish."]


def test_order_depends_only_on_seed_and_names() -> None:
    entries = make_entries(*"abcdefgh")
    assert shuffle_entries(entries, 1) == shuffle_entries(entries[::-1], 1) != shuffle_entries(entries, 2)
