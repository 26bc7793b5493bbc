"""Scores the texts of images with the filter, and decides which are kept (BLIP paper, section 3.3).

The scores of all candidates are stored, also of dropped ones, so that another threshold can be applied
without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import pyarrow as pa
from annotated_types import Ge, Le

from capfilt.models.caption_text import MAX_WORDS, normalize_caption
from capfilt.models.images.shared import SharedPixels
from capfilt.models.tasks.options import MatcherOptions
from capfilt.stages.bootstrap.candidates import EMPTY, gather_candidates
from capfilt.stages.bootstrap.language import LanguageGuesser
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.rows import CANDIDATE_TYPE, JOINED, shard_name, with_column, without_images

if TYPE_CHECKING:
    from capfilt.models.tasks.ensemble import MatcherEnsemble
    from capfilt.models.tasks.placement import Images

Threshold = Annotated[float, Ge(0), Le(1)] | Literal["auto"]
"""A probability, or the one that the calibration of the filter suggests."""


Origin = Literal["web", "synthetic"]
"""Where a candidate comes from."""
ORIGINS: tuple[Origin, ...] = get_args(Origin)


@dataclass(frozen=True, kw_only=True)
class FilterConfig(MatcherOptions):
    """How candidates are judged."""

    threshold: Threshold | Mapping[Origin, Threshold] = 0.5
    """A candidate is kept if its ITM probability is at least this; with 0.5, if the ITM head predicts a
    match, as in the paper. `{web: 0.1, synthetic: 0.5}` sets one for each origin. `auto`: the threshold that
    the calibration suggests for the web texts (`filter.calibrate`); it needs images that are downloaded
    before they are judged."""
    image_size: Annotated[int, Ge(8)] | None = None
    """Side of the square input in pixels; the checkpoint's own if not given."""
    language: bool = False
    """Guess the language of each text, for the column `language` of the candidates. Needs the extra
    `language` (py3langid)."""
    max_words: Annotated[int, Ge(1)] = MAX_WORDS
    """Words of a text that are read, as in pre_caption of salesforce/BLIP data/utils.py."""

    def __post_init__(self) -> None:
        if isinstance(self.threshold, Mapping) and set(self.threshold) != set(ORIGINS):
            raise ValueError(f"threshold: give one for each of {' and '.join(ORIGINS)}")

    @property
    def by_origin(self) -> dict[Origin, Threshold]:
        """The threshold of each origin."""
        if isinstance(self.threshold, Mapping):
            return {origin: self.threshold[origin] for origin in ORIGINS}
        return dict.fromkeys(ORIGINS, self.threshold)

    @property
    def numbers(self) -> dict[str, float]:
        """The threshold of each origin, of settings without an automatic one."""
        return {origin: float(threshold) for origin, threshold in self.by_origin.items()}

    @property
    def is_automatic(self) -> bool:
        """Whether a threshold comes from the calibration."""
        return "auto" in self.by_origin.values()

    def resolve(self, suggested: float | None) -> FilterConfig:
        """These settings with `suggested` in place of `auto`."""
        if not self.is_automatic:
            return self
        assert suggested is not None, "automatic thresholds need a calibration"
        found = {origin: suggested if at == "auto" else at for origin, at in self.by_origin.items()}
        return replace(self, threshold=found)


FOREIGN_COLUMNS = ("synthetic", JOINED)
"""Columns with captions from elsewhere: those of the manifest, and those that were joined to it."""


class Filter:
    """Adds the column `candidates` (list of `rows.CANDIDATE_TYPE`), empty for rows without an image, and
    removes the images.

    The candidates of an image are its web texts, then its synthetic texts: those of the column `captions`,
    then captions from elsewhere. Rows need none of these columns.

    Args:
        config: settings of scoring, and the thresholds, none of them automatic.
        model: the filter, or several (`ModelSource.others`), whose scores are averaged.
        keep_images: keep the images, for a writer that writes the corpus in the same pass.
        pixels: shared with the captioner, if that runs in the same process.
    """

    def __init__(
        self,
        config: FilterConfig,
        model: ModelSource,
        *,
        keep_images: bool = False,
        pixels: SharedPixels | None = None,
    ) -> None:
        self._guesser = LanguageGuesser() if config.language else None
        self.config, self.keep_images, self.pixels = config, keep_images, pixels
        self.matcher = load_matcher(config, model)
        if pixels is not None:
            pixels.add_models(matcher.image_size for matcher in self.matcher.matchers)

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each micro-batch."""
        self.matcher.on_progress(callback)

    def on_notice(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with a line when the batch size is halved for lack of memory."""
        self.matcher.on_notice(callback)

    def rate(self) -> float | None:
        """Images per second of the filters alone; None before the first micro-batch."""
        return self.matcher.rate()

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with the column `candidates`."""
        images = batch["image"].to_pylist()
        texts = batch["texts"].to_pylist()
        synthetic = [_lists(batch, name) for name in ("captions", *FOREIGN_COLUMNS)]
        candidates = [
            gather_candidates(web_texts, captions, [*given, *joined]) if image is not None else []
            for image, web_texts, captions, given, joined in zip(images, texts, *synthetic, strict=True)
        ]
        if self._guesser is not None:
            for candidate in chain.from_iterable(candidates):
                candidate["language"] = self._guesser.guess(candidate["text"])
        active = [i for i, image in enumerate(images) if image is not None]
        encoded: Images = [images[i] for i in active]
        if self.pixels is not None and active:
            encoded = self.pixels.of_shard(shard_name(batch), [images[i] for i in active])
        self._judge(encoded, [candidates[i] for i in active])
        batch = with_column(batch, "candidates", candidates, pa.list_(CANDIDATE_TYPE))
        return batch if self.keep_images else without_images(batch)

    def _judge(self, images: Images, candidates: Sequence[list[dict[str, Any]]]) -> None:
        """Set scores and verdicts of the candidates of each image; those without words stay unjudged."""
        judged = [[c for c in of_image if EMPTY not in c["flags"]] for of_image in candidates]
        max_words, thresholds = self.config.max_words, self.config.numbers
        texts = [[normalize_caption(c["text"], max_words) for c in of_image] for of_image in judged]
        # Web texts come first; each is compared with the synthetic texts of its image.
        web = [sum(c["origin"] == "web" for c in of_image) for of_image in judged]
        for of_image, scores in zip(judged, self.matcher.match(images, texts, web), strict=True):
            for candidate, score in zip(of_image, scores, strict=True):
                candidate["itm_prob"], candidate["itc_sim"] = score.itm_prob, score.itc_sim
                candidate["text_sim"] = score.text_sim
                candidate["kept"] = score.itm_prob >= thresholds[candidate["origin"]]


def load_matcher(config: FilterConfig, model: ModelSource) -> MatcherEnsemble:
    """Load the filter, or all filters of an ensemble."""
    # Imports torch, which only the processes that score texts need.
    from capfilt.models.tasks.ensemble import MatcherEnsemble
    from capfilt.models.tasks.matcher import Matcher

    return MatcherEnsemble(
        [
            Matcher.from_checkpoint(
                member.local_checkpoint("filter"),
                config,
                tokenizer=member.local_tokenizer("filter"),
                image_size=config.image_size,
                device=member.device,
            )
            for member in model.members
        ]
    )


def _lists(batch: pa.Table, name: str) -> list[list[dict[str, Any]]]:
    """A column of lists; empty ones for null, or without the column."""
    values = batch[name].to_pylist() if name in batch.column_names else [None] * batch.num_rows
    return [value or [] for value in values]
