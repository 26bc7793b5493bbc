"""Word tokenization of captions."""

from capfilt.pipeline.evaluation.words import split_words


def test_words_are_split_as_in_the_treebank_without_punctuation() -> None:
    assert split_words('Don\'t stop: "Anna’s blue-green car", 3.5 m!') == [
        "do", "n't", "stop", "anna", "'s", "blue-green", "car", "3.5", "m",
    ]  # fmt: skip
    assert split_words("Ein Café – 日本語, a_b") == ["ein", "café", "日本語", "a", "b"]
    assert split_words("... !?") == []
