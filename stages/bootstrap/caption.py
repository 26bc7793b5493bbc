"""Image → synthetic texts, by the captioner (BLIP paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import pyarrow as pa
from annotated_types import Ge

from capfilt.models.tasks.options import CaptionerOptions
from capfilt.stages.rows import CAPTION, with_column
from capfilt.stages.storage.artifacts import local_artifact
from capfilt.stages.storage.store import Store


@dataclass(frozen=True, kw_only=True)
class CaptionConfig(CaptionerOptions):
    """How synthetic texts are written."""

    captions_per_image: Annotated[int, Ge(0)] = 1
    """Texts written for each image; the paper writes one. 0 = none: only the web texts are judged."""
    image_size: Annotated[int, Ge(8)] | None = None
    """Side of the square input in pixels; the checkpoint's own when not given, else positions are resampled."""


class Caption:
    """Adds column `captions` (list of `rows.CAPTION`) to every row; empty for rows without an image.

    Args:
        config: decoding.
        checkpoint: folder or file of the captioner, a local path or any fsspec URL.
        tokenizer: tokenizer folder, needed by checkpoints that carry none (BLIP .pth).
        seed, round: with a row's key and the caption's index they fix every random draw.
        run: the run directory, whose storage options open a checkpoint on the same kind of store.
        device: "auto" takes the GPU this process was given.
    """

    def __init__(
        self,
        config: CaptionConfig,
        *,
        checkpoint: str,
        tokenizer: str | None = None,
        seed: int = 0,
        round: int = 1,
        run: Store | None = None,
        device: str = "auto",
    ) -> None:
        from capfilt.models.tasks.captioner import (
            Captioner,  # torch: only the process that runs the stage needs it
        )

        self.config, self.seed, self.round = config, seed, round
        self.captioner = Captioner.from_checkpoint(
            local_artifact(checkpoint, "captioner.checkpoint", run),
            config,
            tokenizer=tokenizer and local_artifact(tokenizer, "captioner.tokenizer", run),
            image_size=config.image_size,
            device=device,
        )

    def on_progress(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each micro-batch."""
        self.captioner.batches.on_progress = callback

    def on_notice(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with a line when the batch size is halved for lack of memory."""
        self.captioner.batches.on_notice = callback

    def __call__(self, batch: pa.Table) -> pa.Table:
        images, keys = batch["image"].to_pylist(), batch["key"].to_pylist()
        live = [i for i, image in enumerate(images) if image is not None]
        captions: list[list[dict[str, object]]] = [[] for _ in images]
        if live and self.config.captions_per_image:
            written = self.captioner.caption(
                [images[i] for i in live],
                [keys[i] for i in live],
                n=self.config.captions_per_image,
                run_seed=self.seed,
                round=self.round,
            )
            for i, texts in zip(live, written, strict=True):
                captions[i] = [asdict(caption) for caption in texts]
        return with_column(batch, "captions", captions, pa.list_(CAPTION))
