"""Caption normalization against values by hand."""

import pytest

from capfilt.models.caption_text import normalize_caption


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('A Dog. "Runs"! (fast) #1 *now*: so; on ~', "a dog runs fast 1 now so on"),
        ("commas, questions? and 3 digits stay", "commas, questions? and 3 digits stay"),
        ("  many \t blanks\nhere ", "many blanks here"),
        ("...", ""),
        ("", ""),
    ],
)
def test_captions_are_normalized_as_in_the_reference(text, expected):
    assert normalize_caption(text) == expected


def test_captions_are_cut_after_max_words():
    assert normalize_caption("one two. three four", max_words=3) == "one two three"
    assert normalize_caption("one two. three", max_words=3) == "one two three"
