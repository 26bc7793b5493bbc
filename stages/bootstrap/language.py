"""The language of a text, guessed from its letters: the column `language` of the candidates.

The model is a part of the package py3langid (extra `language`): no download, no randomness. Texts of few
words say little, so a guess needs a probability of `LEAST_PROBABILITY`.
"""

from __future__ import annotations

LEAST_PROBABILITY = 0.5
"""Probability that the model gives to its guess; below it the language is unknown."""
MAX_CHARS = 2000
"""Characters of a text that are looked at."""
PACKAGE = "py3langid"


class LanguageGuesser:
    """Guesses languages; loads the model once, in about a second."""

    def __init__(self) -> None:
        # From the optional extra `language`, which only runs that ask for languages need.
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def guess(self, text: str) -> str | None:
        """The language of a text as its ISO 639 code (`en`, `pt`, `yue`); None if it is unknown.

        A text without letters, and one in which no language is likely, has none.
        """
        text = text[:MAX_CHARS]
        if not any(character.isalpha() for character in text):
            return None
        language, probability = self._model.classify(text)
        return language if probability >= LEAST_PROBABILITY else None
