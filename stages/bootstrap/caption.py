"""Writes synthetic texts for images with the captioner (BLIP paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
from annotated_types import Ge

from capfilt.models.images.shared import SharedPixels
from capfilt.models.tasks.model_rate import combine_rates
from capfilt.models.tasks.options import CaptionerOptions
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.rows import CAPTION_TYPE, shard_name, with_column

if TYPE_CHECKING:
    from capfilt.models.tasks.placement import Images


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(CaptionerOptions):
    """How synthetic texts are written."""

    captions_per_image: Annotated[int, Ge(0)] = 1
    """Texts that a captioner writes for each image; the paper writes one. With 0 only the web texts are
    judged."""
    image_size: Annotated[int, Ge(8)] | None = None
    """Side of the square input in pixels, for which positions are interpolated; the checkpoint's own if not
    given."""


class Caption:
    """Adds the column `captions` (list of `rows.CAPTION_TYPE`); empty for rows without an image.

    Args:
        config: settings of captioning.
        model: the captioner, or several (`ModelSource.others`), which each write `captions_per_image` texts.
        seed: seed of the run.
        round: round of the bootstrap. Seed, round, a row's key and the index of the caption determine every
            random draw.
        pixels: shared with the filter, if that runs in the same process.
    """

    def __init__(
        self,
        config: CaptionConfig,
        model: ModelSource,
        *,
        seed: int = 0,
        round: int = 1,
        pixels: SharedPixels | None = None,
    ) -> None:
        # Imports torch, which only the processes that run the stage need.
        from capfilt.models.tasks.captioner import Captioner

        self.config, self.seed, self.round, self.pixels = config, seed, round, pixels
        self.captioners = [
            Captioner.from_checkpoint(
                member.local_checkpoint("captioner"),
                config,
                tokenizer=member.local_tokenizer("captioner"),
                image_size=config.image_size,
                device=member.device,
            )
            for member in model.members
        ]
        if pixels is not None:
            pixels.add_models(captioner.image_size for captioner in self.captioners)
        # With an only captioner the writer knows which one it is.
        self._names = [member.digest for member in model.members] if model.others else [None]

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each micro-batch."""
        for captioner in self.captioners:
            captioner.batches.on_progress = callback

    def on_notice(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with a line when the batch size is halved for lack of memory."""
        for captioner in self.captioners:
            captioner.batches.on_notice = callback

    def rate(self) -> float | None:
        """Images per second of the captioners alone; None before the first micro-batch."""
        return combine_rates(captioner.batches.rate for captioner in self.captioners)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with the column `captions`."""
        images, keys = batch["image"].to_pylist(), batch["key"].to_pylist()
        active = [i for i, image in enumerate(images) if image is not None]
        captions: list[list[dict[str, object]]] = [[] for _ in images]
        count = self.config.captions_per_image
        encoded: Images = [images[i] for i in active]
        if self.pixels is not None and active:
            encoded = self.pixels.of_shard(shard_name(batch), [images[i] for i in active])
        for number, (captioner, name) in enumerate(zip(self.captioners, self._names, strict=True)):
            if not active or not count:
                break
            written = captioner.caption(
                encoded,
                [keys[i] for i in active],
                n=count,
                first=number * count,
                run_seed=self.seed,
                round=self.round,
            )
            for i, texts in zip(active, written, strict=True):
                captions[i] += [asdict(caption) | {"captioner": name} for caption in texts]
        return with_column(batch, "captions", captions, pa.list_(CAPTION_TYPE))
