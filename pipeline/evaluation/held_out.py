"""Retrieval and captioning of one model on held-out images, shared by runs and `capfilt evaluate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from capfilt.stages.bootstrap.caption import CaptionConfig

if TYPE_CHECKING:
    from capfilt.models.network.med import MED
    from capfilt.models.network.tokenizer import Tokenizer

POST_EVERY_SECONDS = 1.0
CAPTIONED_BATCHES = 8
"""Batches that are captioned in one call; progress is shown after each."""


@dataclass(frozen=True)
class HeldOutImages:
    """Images with their texts, in manifest order."""

    images: list[bytes | tuple[bytes, ...]] = field(default_factory=list)
    """Encoded; of a video its frames."""
    texts: list[list[str]] = field(default_factory=list)
    """Captions of each image, written by people."""
    keys: list[str] = field(default_factory=list)
    """A different name of each image."""
    sources: list[str] = field(default_factory=list)
    """The source of each image."""

    @property
    def by_source(self) -> dict[str, list[int]]:
        """{source: numbers of its images}; empty for a single source, which has the figures of all images."""
        numbers: dict[str, list[int]] = {}
        for number, source in enumerate(self.sources):
            numbers.setdefault(source, []).append(number)
        return numbers if len(numbers) > 1 else {}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a model is measured."""

    k: int
    """Best ITC candidates of a query that ITM ranks again."""
    caption: CaptionConfig
    """How captions are generated; its batch size and precision are those of the retrieval too."""
    seed: int = 0
    """For captions that are sampled."""
    itm_token: Literal["enc", "cls"] = "enc"
    """See `models.tasks.options.MatcherOptions`."""
    median_rank: bool = False
    """See `models.tasks.retrieval.RetrievalOptions`."""
    on_notice: Callable[[str], None]
    """Receives lines for the user."""
    post: Callable[[str], None]
    """Receives what is being done."""


class Progress:
    """Posts how many images a step has done: after every second, and at its end.

    Args:
        post: receives the lines.
        images: number of all images.
    """

    def __init__(self, post: Callable[[str], None], images: int) -> None:
        self.post, self.images, self.posted = post, images, float("-inf")

    def __call__(self, step: str, done: int) -> None:
        now = time.monotonic()
        if now - self.posted >= POST_EVERY_SECONDS or done == self.images:
            self.posted = now
            self.post(f"{step} {done:,} of {self.images:,} images")


# The driver of a run imports this module and needs no torch, so the functions import it.


def measure_retrieval(
    med: MED, tokenizer: Tokenizer, held_out: HeldOutImages, protocol: Protocol
) -> dict[str, float]:
    """Recalls of a model that is prepared for inference; see `models.tasks.retrieval.evaluate_retrieval`."""
    from capfilt.models.tasks.placement import decoding_threads, load_pixel_batches
    from capfilt.models.tasks.retrieval import RetrievalOptions, RetrievalSet, evaluate_retrieval

    batch_size = protocol.caption.batch_size
    size, threads = med.config.vision.image_size, decoding_threads(med)
    data = RetrievalSet(
        pixel_batches=load_pixel_batches(held_out.images, size, batch_size, threads=threads),
        texts=[text for of_image in held_out.texts for text in of_image],
        image_of_text=[i for i, of_image in enumerate(held_out.texts) for _ in of_image],
        groups=held_out.by_source,
    )
    options = RetrievalOptions(
        k=protocol.k,
        batch_size=batch_size,
        itm_token=protocol.itm_token,
        median_rank=protocol.median_rank,
        on_notice=protocol.on_notice,
        on_progress=Progress(protocol.post, len(held_out.images)),
    )
    return evaluate_retrieval(med, tokenizer, data, options)


def write_captions(
    med: MED, tokenizer: Tokenizer, held_out: HeldOutImages, protocol: Protocol
) -> dict[str, str]:
    """One caption of each image, by its key."""
    from capfilt.models.tasks.captioner import Captioner

    captioner = Captioner(med, tokenizer, protocol.caption, device=next(med.parameters()).device)
    captioner.batches.on_notice = protocol.on_notice
    images, keys, captions = held_out.images, held_out.keys, dict[str, str]()
    progress, size = Progress(protocol.post, len(images)), CAPTIONED_BATCHES * protocol.caption.batch_size
    for start in range(0, len(images), size):
        part = slice(start, start + size)
        found = captioner.caption(images[part], keys[part], n=1, run_seed=protocol.seed, round=0)
        captions |= {key: of_image[0].text for key, of_image in zip(keys[part], found, strict=True)}
        progress("captioning", len(captions))
    return captions


def select_texts(held_out: HeldOutImages, numbers: Sequence[int]) -> dict[str, list[str]]:
    """{key: texts} of some images."""
    return {held_out.keys[number]: held_out.texts[number] for number in numbers}
