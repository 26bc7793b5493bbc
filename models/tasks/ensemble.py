"""Several filters that judge together (BLIP paper, section 6: a model ensemble in CapFilt)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from capfilt.models.tasks.matcher import Matcher, Score
from capfilt.models.tasks.model_rate import combine_rates
from capfilt.models.tasks.placement import Images


class MatcherEnsemble:
    """Scores texts with each of its filters; a score is the mean of theirs.

    Args:
        matchers: at least one; the scores of an only one are not changed.
    """

    def __init__(self, matchers: Sequence[Matcher]) -> None:
        self.matchers = list(matchers)

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each micro-batch of each filter."""
        for matcher in self.matchers:
            matcher.batches.on_progress = callback

    def on_notice(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with a line when a filter halves its batch size for lack of memory."""
        for matcher in self.matchers:
            matcher.batches.on_notice = callback

    def rate(self) -> float | None:
        """Images per second of all filters, one after another; None before the first micro-batch."""
        return combine_rates(matcher.batches.rate for matcher in self.matchers)

    def match(
        self, images: Images, texts: Sequence[Sequence[str]], compared: Sequence[int] | None = None
    ) -> list[list[Score]]:
        """Score each text of each image; see `Matcher.match`."""
        first, *others = (matcher.match(images, texts, compared) for matcher in self.matchers)
        if not others:
            return first
        return [
            [_mean(of_text) for of_text in zip(*of_image, strict=True)]
            for of_image in zip(first, *others, strict=True)
        ]


def _mean(scores: Sequence[Score]) -> Score:
    similar = [score.text_sim for score in scores if score.text_sim is not None]
    return Score(
        itm_prob=fmean(score.itm_prob for score in scores),
        itc_sim=fmean(score.itc_sim for score in scores),
        text_sim=fmean(similar) if similar else None,
    )
