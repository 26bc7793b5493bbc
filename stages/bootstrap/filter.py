"""(image, texts) → scores and verdicts, by the filter (BLIP paper, section 3.3).

Scores are always stored, dropped candidates too, so that another threshold needs no GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import pyarrow as pa
from annotated_types import Ge, Le

from capfilt.models.caption_text import MAX_WORDS, normalize_caption
from capfilt.models.tasks.options import MatcherOptions
from capfilt.stages.bootstrap.candidates import gather_candidates
from capfilt.stages.rows import CANDIDATE, with_column, without_images
from capfilt.stages.storage.artifacts import local_artifact
from capfilt.stages.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class FilterConfig(MatcherOptions):
    """How candidates are judged."""

    threshold: Annotated[float, Ge(0), Le(1)] = 0.5
    """A candidate is kept when its ITM probability reaches this; 0.5 is the paper's "the ITM head predicts it
    as matched"."""
    image_size: Annotated[int, Ge(8)] | None = None
    """Side of the square input in pixels; the checkpoint's own when not given."""
    max_words: Annotated[int, Ge(1)] = MAX_WORDS
    """Words of a text that are read, as in the reference's pre_caption."""


class Filter:
    """Adds column `candidates` (list of `rows.CANDIDATE`) to every row and empties the image bytes,
    which nobody needs any more.

    The candidates of an image are its web texts and its synthetic texts, in that order.

    Args:
        config: threshold and batching.
        checkpoint: folder or file of the filter, a local path or any fsspec URL.
        tokenizer: tokenizer folder, needed by checkpoints that carry none (BLIP .pth).
        keep_images: pass the image bytes on; needed when the writer makes the corpus in the same pass.
        run: the run directory, whose storage options open a checkpoint on the same kind of store.
        device: "auto" takes the GPU this process was given.
    """

    def __init__(
        self,
        config: FilterConfig,
        *,
        checkpoint: str,
        tokenizer: str | None = None,
        keep_images: bool = False,
        run: Store | None = None,
        device: str = "auto",
    ) -> None:
        from capfilt.models.tasks.matcher import (
            Matcher,  # torch: only the process that runs the stage needs it
        )

        self.config, self.keep_images = config, keep_images
        self.matcher = Matcher.from_checkpoint(
            local_artifact(checkpoint, "filter.checkpoint", run),
            config,
            tokenizer=tokenizer and local_artifact(tokenizer, "filter.tokenizer", run),
            image_size=config.image_size,
            device=device,
        )

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each micro-batch."""
        self.matcher.batches.on_progress = callback

    def on_notice(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with a line when the batch size is halved for lack of memory."""
        self.matcher.batches.on_notice = callback

    def __call__(self, batch: pa.Table) -> pa.Table:
        images = batch["image"].to_pylist()
        captions = batch["captions"].to_pylist()
        texts = batch["texts"].to_pylist()
        candidates = [
            gather_candidates(of_image, synthetic) if image is not None else []
            for image, of_image, synthetic in zip(images, texts, captions, strict=True)
        ]
        live = [i for i, image in enumerate(images) if image is not None]
        self._judge([images[i] for i in live], [candidates[i] for i in live])
        judged = with_column(batch, "candidates", candidates, pa.list_(CANDIDATE))
        return judged if self.keep_images else without_images(judged)

    def _judge(self, images: Sequence[bytes], candidates: Sequence[list[dict[str, Any]]]) -> None:
        """Fill scores and verdicts of the candidates that have words; the others stay unjudged."""
        judged = [[c for c in of_image if "empty" not in c["flags"]] for of_image in candidates]
        scores = self.matcher.match(
            images,
            [[normalize_caption(c["text"], self.config.max_words) for c in of_image] for of_image in judged],
        )
        for of_image, of_scores in zip(judged, scores, strict=True):
            for candidate, score in zip(of_image, of_scores, strict=True):
                candidate["itm_prob"], candidate["itc_sim"] = score.itm_prob, score.itc_sim
                candidate["kept"] = score.itm_prob >= self.config.threshold
