"""What a model says about pictures, as records: one for each caption, pair, answer or place of a ranking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch

from capfilt.models.caption_text import MAX_WORDS, normalize_caption
from capfilt.models.tasks.ranker import Candidates, Ranked, Ranker, order
from capfilt.pipeline.use.pictures import Picture, read_pictures

if TYPE_CHECKING:
    from capfilt.models.tasks.answerer import Answer, Answerer
    from capfilt.models.tasks.captioner import Captioner
    from capfilt.models.tasks.matcher import Matcher

Record = dict[str, Any]
"""One line of the output, without the picture."""
Pictures = Sequence[Picture]
"""Pictures that could be read."""


class Describer(Protocol):
    """Turns pictures into records."""

    def describe(self, pictures: Pictures) -> list[list[Record]]:
        """The records of each picture."""
        ...

    def finish(self) -> Iterator[tuple[str, Record]]:
        """(picture, record) of what is known only after the last picture."""
        ...


class EachAlone:
    """A describer that knows everything about a picture at once."""

    def finish(self) -> Iterator[tuple[str, Record]]:
        """Nothing is left."""
        return iter(())


@dataclass
class WriteCaptions(EachAlone):
    """Captions of each picture, best first with beam search."""

    captioner: Captioner
    n: int
    seed: int

    def describe(self, pictures: Pictures) -> list[list[Record]]:
        """Records {"caption", "logprob"}."""
        keys = [picture.path for picture in pictures]
        found = self.captioner.caption(_images(pictures), keys, n=self.n, run_seed=self.seed)
        return [
            [{"caption": each.text, "logprob": round(each.logprob, 4)} for each in of_image]
            for of_image in found
        ]


@dataclass
class MatchTexts(EachAlone):
    """How well each of some texts matches each picture."""

    matcher: Matcher
    texts: Sequence[str]

    def describe(self, pictures: Pictures) -> list[list[Record]]:
        """Records {"text", "itm_prob", "itc_sim"}."""
        read = [normalize_caption(text, MAX_WORDS) for text in self.texts]
        found = self.matcher.match(_images(pictures), [read] * len(pictures))
        return [
            [
                {"text": text, "itm_prob": round(score.itm_prob, 6), "itc_sim": round(score.itc_sim, 6)}
                for text, score in zip(self.texts, scores, strict=True)
            ]
            for scores in found
        ]


@dataclass
class AnswerQuestions(EachAlone):
    """Answers to each of some questions about each picture."""

    answerer: Answerer
    questions: Sequence[str]
    choices: Sequence[str] = ()
    """Answers of which the most probable is taken; empty: the model answers freely."""

    def describe(self, pictures: Pictures) -> list[list[Record]]:
        """Records {"question", "answer", "logprob"}."""
        images = [image for image in _images(pictures) for _ in self.questions]
        questions = list(self.questions) * len(pictures)
        found = iter(self._answer(images, questions))
        return [
            [
                {"question": question, "answer": answer.text, "logprob": round(answer.logprob, 4)}
                for question, answer in zip(self.questions, found, strict=False)
            ]
            for _ in pictures
        ]

    def _answer(self, images: list[bytes], questions: list[str]) -> list[Answer]:
        if self.choices:
            return self.answerer.rank(images, questions, self.choices)
        return self.answerer.answer(images, questions)


@dataclass
class RankTexts(EachAlone):
    """The best texts for each picture."""

    ranker: Ranker
    texts: Sequence[str]
    k: int
    top: int
    candidates: Candidates = field(init=False)

    def __post_init__(self) -> None:
        self.candidates = self.ranker.encode(self.texts)

    def describe(self, pictures: Pictures) -> list[list[Record]]:
        """Records {"rank", "text", "itc_sim", "itm_prob"}."""
        found = self.ranker.rank(_images(pictures), self.candidates, k=self.k, top=self.top)
        return [
            [_placed(place, self.texts[each.index], each) for place, each in enumerate(ranked, 1)]
            for ranked in found
        ]


@dataclass
class RankPictures:
    """The best pictures for each text. Of all pictures only the best ones are remembered, and only their
    paths; those that ITM ranks are read again."""

    ranker: Ranker
    texts: Sequence[str]
    k: int
    top: int
    batch_size: int
    candidates: Candidates = field(init=False)
    best: list[list[tuple[float, str]]] = field(init=False)
    """(ITC similarity, path) of the best pictures of each text so far, best first."""

    def __post_init__(self) -> None:
        self.candidates = self.ranker.encode(self.texts)
        self.best = [[] for _ in self.texts]

    def describe(self, pictures: Pictures) -> list[list[Record]]:
        """Compares the pictures; no records yet."""
        found = self.ranker.similarities(_images(pictures), self.candidates).tolist()
        for number, best in enumerate(self.best):
            best += [(row[number], picture.path) for row, picture in zip(found, pictures, strict=True)]
            best.sort(key=lambda each: -each[0])  # stable: of equal pictures the first
            del best[max(self.k, self.top) :]
        return [[] for _ in pictures]

    def finish(self) -> Iterator[tuple[str, Record]]:
        """Records {"rank", "text", "itc_sim", "itm_prob"}, text after text."""
        odds = self._match() if self.k else {}
        for number, (text, best) in enumerate(zip(self.texts, self.best, strict=True)):
            cosine = torch.tensor([similarity for similarity, _ in best])
            of_text = torch.tensor([odds.get((number, path), torch.nan) for _, path in best])
            ranked = order(torch.arange(len(best)), cosine, of_text)[: self.top]
            for place, each in enumerate(ranked, 1):
                yield best[each.index][1], _placed(place, text, each)

    def _match(self) -> dict[tuple[int, str], float]:
        """ITM's log-odds of (text, picture) for the k best pictures of each text."""
        wanted: dict[str, list[int]] = {}
        for number, best in enumerate(self.best):
            for _, path in best[: self.k]:
                wanted.setdefault(path, []).append(number)
        odds: dict[tuple[int, str], float] = {}
        for chunk in read_pictures(wanted, self.batch_size):
            good = [picture for picture in chunk if picture.image is not None]
            pairs = torch.zeros(len(good), len(self.texts), dtype=torch.bool)
            for row, picture in enumerate(good):
                pairs[row, wanted[picture.path]] = True
            found = self.ranker.match(_images(good), self.candidates, pairs).tolist()
            odds |= {
                (number, picture.path): row[number]
                for row, picture in zip(found, good, strict=True)
                for number in wanted[picture.path]
            }
        return odds


def _placed(place: int, text: str, ranked: Ranked) -> Record:
    prob = None if ranked.itm_prob is None else round(ranked.itm_prob, 6)
    return {"rank": place, "text": text, "itc_sim": round(ranked.itc_sim, 6), "itm_prob": prob}


def _images(pictures: Pictures) -> list[bytes]:
    return [picture.image for picture in pictures if picture.image is not None]
