"""Variants of texts that differ in one word."""

from random import Random

import pytest

from capfilt.pipeline.evaluation.calibration.substitutes import (
    PER_PLACE,
    PER_TEXT,
    find_substitutes,
    vary_text,
)


def test_words_between_the_same_two_words_replace_each_other():
    sample = ["a red ring", "a blue ring by a box", "the red ring", "a red ring on a box"]
    substitutes = find_substitutes(sample)
    assert vary_text("a red ring", substitutes) == ["the red ring", "a blue ring"]
    assert vary_text("a blue ring by a box", substitutes) == ["a red ring by a box", "a blue ring on a box"]
    assert vary_text("a green ring", substitutes) == ["a red ring", "a blue ring"], "red is more common"
    assert vary_text("nothing of this", substitutes) == []
    assert vary_text("", substitutes) == []


def test_a_word_that_stands_alone_is_replaced_too():
    assert vary_text("ring", find_substitutes(["ring", "box", "box"])) == ["box"]


@pytest.mark.parametrize("others", [PER_PLACE, PER_PLACE + 1])
def test_a_word_has_at_most_eight_substitutes(others):
    sample = [f"a w{n} ring" for n in range(others)] * 2
    variants = vary_text("a red ring", find_substitutes([*sample, "a red ring"]))
    assert len(variants) == PER_PLACE


@pytest.mark.parametrize("words", [4, 5])
def test_a_long_text_has_at_most_32_variants(words):
    sample = [" ".join(f"p{place}x{n}y" if place % 2 else f"s{place}" for place in range(2 * words + 1))
              for n in range(PER_PLACE + 1)]  # fmt: skip
    substitutes = find_substitutes(sample)
    variants = vary_text(sample[0], substitutes)
    assert len(variants) == min(PER_TEXT, words * PER_PLACE) == len(set(variants))
    assert vary_text(sample[0], substitutes) == variants, "the same ones each time"
    changed = {variant.split().index(next(w for w in variant.split() if w not in sample[0].split()))
               for variant in variants}  # fmt: skip
    assert changed == {2 * n + 1 for n in range(words)}, "at every place"


def test_variants_of_random_texts_differ_in_one_word():
    random = Random(0)
    sample = [" ".join(random.choices("abcdef", k=random.randint(1, 9))) for _ in range(300)]
    substitutes = find_substitutes(sample)
    between = {
        (before, word, after)
        for text in sample
        for before, word, after in zip(
            ["^", *text.split()], text.split(), [*text.split()[1:], "$"], strict=False
        )
    }
    for text in sample:
        for variant in vary_text(text, substitutes):
            old, new = text.split(), variant.split()
            places = [n for n, words in enumerate(zip(old, new, strict=True)) if words[0] != words[1]]
            assert len(places) == 1
            n = places[0]
            before = new[n - 1] if n else "^"
            after = new[n + 1] if n + 1 < len(new) else "$"
            assert (before, new[n], after) in between
