"""Flags and order of the candidates of an image."""

import pytest

from capfilt.stages.bootstrap.candidates import flag_text, gather_candidates


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("", ["empty"]),
        (" ", ["empty"]),
        ("a", []),
        # One word three times in a row, wherever it is in the text.
        ("dai dai", []),
        ("dai dai dai", ["degenerate"]),
        ("a dog dog dog", ["degenerate"]),
        ("dog dog dog runs", ["degenerate"]),
        ("dog dog runs dog dog", []),
        ("dog dog runs runs runs", ["degenerate"]),
        # Eight words of which at most two differ; three words in a row do not occur.
        ("a b a b a b a", []),
        ("a b a b a b a b", ["degenerate"]),
        ("a b a b a b a c", []),
        ("a b a b a b a b a", ["degenerate"]),
    ],
)
def test_flags_of_a_single_text(text, flags):
    assert flag_text(text, set()) == flags


def test_duplicates_and_degenerate_texts_can_have_both_flags():
    assert flag_text("a dog", {"a dog"}) == ["duplicate"]
    assert flag_text("a dog", {"a cat"}) == []
    assert flag_text("dai dai dai", {"dai dai dai"}) == ["duplicate", "degenerate"]
    assert flag_text("", {""}) == ["empty"]


def caption(index, text, seed):
    return {"caption_index": index, "text": text, "seed": seed, "logprob": -seed, "tokens": seed + 1}


def test_web_texts_come_first_and_only_later_texts_are_duplicates():
    captions = [caption(0, "a red dog", 11), caption(1, "A cat", 12), caption(2, "a  bird", 13)]
    candidates = gather_candidates(["A cat!", "a dog", "a CAT", "..."], captions)
    assert [(c["origin"], c["caption_index"], c["text"], c["seed"], c["flags"]) for c in candidates] == [
        ("web", 0, "A cat!", None, []),
        ("web", 1, "a dog", None, []),
        ("web", 2, "a CAT", None, ["duplicate"]),
        ("web", 3, "...", None, ["empty"]),
        ("synthetic", 0, "a red dog", 11, []),
        ("synthetic", 1, "A cat", 12, ["duplicate"]),
        ("synthetic", 2, "a  bird", 13, []),
    ]
    assert {(c["itm_prob"], c["itc_sim"], c["text_sim"], c["kept"]) for c in candidates} == {(None,) * 4}
    assert [(c["logprob"], c["tokens"]) for c in candidates] == [
        *[(None, None)] * 4,
        *[(-seed, seed + 1) for seed in (11, 12, 13)],
    ]


def test_content_is_flagged_as_the_text_came():
    candidates = gather_candidates(["IMG_1234.jpg", "a dog, $5", "IMG 1234 jpg"], [caption(0, "buy now", 1)])
    assert [c["flags"] for c in candidates] == [
        ["boilerplate"],
        ["not_caption"],
        [],
        ["boilerplate"],
    ]


def test_captioner_need_not_tell_probabilities():
    (found,) = gather_candidates([], [{"caption_index": 0, "text": "a dog", "seed": 1}])
    assert (found["seed"], found["logprob"], found["tokens"]) == (1, None, None)


def test_a_long_text_is_flagged_by_all_of_its_words():
    words = [f"word{n}" for n in range(40)]
    first, second = " ".join(words), " ".join([*words[:-1], "other"])
    candidates = gather_candidates([first, second, first], [])
    assert [c["flags"] for c in candidates] == [[], [], ["duplicate"]]


@pytest.mark.parametrize("web_texts", [None, []])
def test_an_image_may_have_no_texts(web_texts):
    assert gather_candidates(web_texts, []) == []
    assert [c["origin"] for c in gather_candidates(web_texts, [caption(0, "a dog", 1)])] == ["synthetic"]
