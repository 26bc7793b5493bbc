"""Guesses of languages: short captions written by hand, and texts that have none."""

import pytest

from capfilt.stages.bootstrap.language import LanguageGuesser

CAPTIONS = {
    "en": ["a dog running on the beach with a ball", "two men riding bicycles down a city street"],
    "de": ["ein Hund läuft am Strand mit einem Ball", "moderne Küche mit weißen Schränken"],
    "fr": ["un chien court sur la plage avec une balle", "coucher de soleil sur les montagnes en hiver"],
    "es": ["un perro corre por la playa con una pelota", "niños jugando al fútbol en el parque"],
    "pt": ["um cachorro correndo na praia com uma bola", "crianças jogando futebol no parque"],
    "pl": ["pies biegnie po plaży z piłką", "stary samochód zaparkowany przed domem"],
    "tr": ["bir köpek sahilde topla koşuyor", "evin önünde park etmiş eski bir araba"],
    "ru": ["собака бежит по пляжу с мячом", "дети играют в футбол в парке"],
    "ja": ["ボールを持ってビーチを走る犬", "公園でサッカーをする子供たち"],
    "ko": ["공을 가지고 해변을 달리는 개", "나무 테이블 위의 커피 한 잔"],
    "ar": ["كلب يركض على الشاطئ مع كرة", "فنجان قهوة على طاولة خشبية"],
}


@pytest.fixture(scope="module")
def guesser() -> LanguageGuesser:
    return LanguageGuesser()


@pytest.mark.parametrize("language", CAPTIONS)
def test_language_of_short_captions(guesser: LanguageGuesser, language: str) -> None:
    found = [guesser.guess(text) for text in CAPTIONS[language]]
    assert found == [language] * 2


@pytest.mark.parametrize(
    "text", ["", " \n", "12", "2014-03-12", "🐍 🐍", "a", "IMG_1234.jpg", "nike air max 90"]
)
def test_texts_without_a_likely_language_have_none(guesser: LanguageGuesser, text: str) -> None:
    assert guesser.guess(text) is None


def test_texts_may_be_long_or_broken(guesser: LanguageGuesser) -> None:
    sentence = "a dog is running on the beach with a red ball. "
    assert guesser.guess(sentence * 100_000) == "en"
    assert guesser.guess("\ud800 " + sentence) == "en"


def test_another_process_guesses_the_same(guesser: LanguageGuesser) -> None:
    again = LanguageGuesser()
    texts = [text for of_language in CAPTIONS.values() for text in of_language]
    assert [again.guess(text) for text in texts] == [guesser.guess(text) for text in texts]
