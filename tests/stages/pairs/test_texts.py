"""How texts are weighed, how a text is split into sentences, and what the settings refuse."""

from fractions import Fraction

import pytest

from capfilt.stages.pairs.texts import TextsConfig, split_sentences, weigh_texts


@pytest.mark.parametrize(
    ("origins", "weights", "expected"),
    [
        (["web"], {"web": 0.2, "synthetic": 0.8}, [1]),
        (["web", "synthetic"], {"web": 0.2, "synthetic": 0.8}, ["0.2", "0.8"]),
        (["web", "synthetic", "synthetic"], {"web": 0.2, "synthetic": 0.8}, ["0.2", "0.4", "0.4"]),
        (["web", "web", "synthetic"], {"web": 1, "synthetic": 4}, ["0.1", "0.1", "0.8"]),
        (["synthetic", "synthetic"], {"web": 1, "synthetic": 0.1}, ["0.5", "0.5"]),
        (["web", "synthetic"], {"synthetic": 0}, [1, 0]),
        (["web"], {"web": 0}, [0]),
        (["web", "synthetic"], {}, ["0.5", "0.5"]),
        (["human"] * 4, {"human": 2}, ["0.5"] * 4),
        (["human"], {"human": 0}, [0]),
    ],
)
def test_one_text_per_image_is_drawn_by_the_weights_of_the_origins_that_are_present(
    origins, weights, expected
):
    found = weigh_texts(origins, weights, "one")
    assert found == pytest.approx([float(Fraction(each)) for each in expected])


def test_with_all_texts_each_has_the_weight_of_its_origin():
    assert weigh_texts(["web", "synthetic", "synthetic"], {"web": 0.5}, "all") == [0.5, 1, 1]
    assert weigh_texts(["human", "human"], {"human": 2}, "all") == [2, 2]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A dog runs. A cat sleeps.", ["A dog runs.", "A cat sleeps."]),
        ("one sentence without an end", ["one sentence without an end"]),
        ("  spaces around  ", ["spaces around"]),
        ("Really?! Yes… Good", ["Really?!", "Yes…", "Good"]),
        ('He said "stop." She did.', ['He said "stop."', "She did."]),
        ("Dr. Smith and Mrs. J. Doe at St. Ives. They smile.",
         ["Dr. Smith and Mrs. J. Doe at St. Ives.", "They smile."]),
        ("A lens of 3.5 mm. f/2.8 and more.", ["A lens of 3.5 mm. f/2.8 and more."]),
        ("It costs 3.50. It is red.", ["It costs 3.50.", "It is red."]),
        ("first line\nsecond line\r\n\r\nthird", ["first line", "second line", "third"]),
        ("一只狗。一只猫！", ["一只狗。", "一只猫！"]),
        ("Ein Hund. Über ihm ein Vogel.", ["Ein Hund.", "Über ihm ein Vogel."]),
        ("A dog. 12. A cat.", ["A dog. 12.", "A cat."]),
        ("see www.example.org. then go", ["see www.example.org. then go"]),
        ("wait ... 5", ["wait ... 5"]),
        ("!!!", ["!!!"]),
        ("", [""]),
    ],
)  # fmt: skip
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


def test_splitting_loses_no_character_but_space():
    text = 'A "b." C! (D?) E.\nF 。G… h. I 7. 8! J'
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"human": 0, "web": 0, "synthetic": 0}, "all 0, which leaves no pair"),
        ({"verdicts": "a/b"}, "'a/b' cannot be the name of a set"),
        ({"verdicts": "a" * 65}, "at most 64"),
    ],
)
def test_settings_that_say_nothing_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        TextsConfig(**keys)
    assert TextsConfig(web=0, synthetic=0, verdicts="a" * 64).weights == {
        "human": 1,
        "web": 0,
        "synthetic": 0,
    }
