"""Loading of models and images for inference, shared by all tasks."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar, Generic, Protocol, Self, TypeVar

import torch
from PIL import Image
from torch import Tensor

from capfilt.models.checkpoints.load import load_checkpoint
from capfilt.models.config import Parts, Precision
from capfilt.models.images.decode import decode_image
from capfilt.models.images.pixels import to_pixels
from capfilt.models.images.shared import SharedImage
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.precision import uses_bfloat16

log = logging.getLogger(__name__)

Frames = tuple[bytes, ...]
"""A video: its encoded frames, as many as of every other video of the same call."""
Images = Sequence[Image.Image | bytes | Frames | SharedImage] | Tensor
"""Images, encoded images, videos, encoded images whose pixels are shared, or uint8 pixels [B, 3, S, S] of the
model's image size."""

DECODING_THREADS, MOST_DECODING_THREADS = 4, 16
"""Threads that decode images: for a model on CPUs, and the most for a model on a GPU. Pillow releases the GIL
while it decodes and resizes."""


def load_model(
    path: str | Path, parts: Parts, image_size: int | None, tokenizer: str | Path | None
) -> tuple[MED, Tokenizer]:
    """Call `load_checkpoint` and log its notes."""
    med, med_tokenizer, info = load_checkpoint(path, parts, image_size=image_size, tokenizer=tokenizer)
    for note in info.notes:
        log.warning("%s: %s", path, note)
    return med, med_tokenizer


def prepare_model(med: MED, tokenizer: Tokenizer, device: str | torch.device, precision: Precision) -> MED:
    """Move and cast a model for inference, in place, and put it in eval mode.

    Args:
        med: the model.
        tokenizer: its tokenizer.
        device: "auto" is the GPU if there is one.
        precision: "auto" is bfloat16 on GPUs that support it.

    Raises:
        ValueError: the tokenizer has more tokens than the model.
    """
    if tokenizer.vocab_size > med.config.text.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only {med.config.text.vocab_size}: "
            "use the model's tokenizer"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    dtype = torch.bfloat16 if uses_bfloat16(precision, device) else torch.float32
    return med.to(device=device, dtype=dtype).eval()


class HasPrecision(Protocol):
    """Options of a task."""

    @property
    def precision(self) -> Precision:
        """Of the model."""


OptionsT = TypeVar("OptionsT", bound=HasPrecision)


class TaskModel(Generic[OptionsT]):
    """A model that is prepared for a task: the base of the classes of this folder."""

    parts: ClassVar[Parts]
    """What `from_checkpoint` loads of a checkpoint."""
    options_type: ClassVar[type]

    def __init__(
        self,
        med: MED,
        tokenizer: Tokenizer,
        options: OptionsT | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        """Prepare the model; it is moved, cast and put in eval mode in place."""
        self.options: OptionsT = options or self.options_type()
        self.med = prepare_model(med, tokenizer, device, self.options.precision)
        self.tokenizer = tokenizer

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        options: OptionsT | None = None,
        *,
        tokenizer: str | Path | None = None,
        image_size: int | None = None,
        device: str | torch.device = "auto",
    ) -> Self:
        """Load the `parts` of a checkpoint of any format; see `checkpoints.load.load_checkpoint`.

        `tokenizer` is a folder, for checkpoints without one. `image_size` None keeps the size of the
        checkpoint.
        """
        med, med_tokenizer = load_model(path, cls.parts, image_size, tokenizer)
        return cls(med, med_tokenizer, options, device=device)

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.med.config.vision.image_size

    def pixel_batches(self, images: Images, batch_size: int) -> Iterator[Tensor]:
        """See `load_pixel_batches`."""
        return load_pixel_batches(images, self.image_size, batch_size, threads=decoding_threads(self.med))


def decoding_threads(med: MED) -> int:
    """Threads that decode images for a model.

    A photo takes 5 ms of a core, a hundredth of the time of a ViT-B/16 on the same core. A GPU may encode
    more than the 750 images/s of four threads, so there it is one thread for each core.
    """
    if next(med.parameters()).device.type == "cpu":
        return DECODING_THREADS
    return min(MOST_DECODING_THREADS, max(DECODING_THREADS, len(os.sched_getaffinity(0))))


def load_pixel_batches(
    images: Images, size: int, batch_size: int, *, threads: int = DECODING_THREADS
) -> Iterator[Tensor]:
    """Iterate over uint8 pixels [b, 3, size, size] of `batch_size` images, or [b, F, 3, size, size] of
    videos; the next batch is decoded meanwhile.

    Args:
        threads: that decode.

    Raises:
        ValueError: pixels of another size or dtype, or bytes that are not a complete image.
    """
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"images has dtype {images.dtype} and shape {list(images.shape)}: expected torch.uint8 "
                f"[B, 3, {size}, {size}] (see models.images.pixels.to_pixels)"
            )
        yield from images.split(batch_size)
        return
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[list[Future[Tensor]]] = deque()
        try:
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size]
                pending.append([pool.submit(_load_pixels, image, size) for image in batch])
                if len(pending) > 1:
                    yield torch.cat([image.result() for image in pending.popleft()])
            while pending:
                yield torch.cat([image.result() for image in pending.popleft()])
        finally:  # after an error here or in the consumer, the remaining images are not needed
            pool.shutdown(cancel_futures=True)


def _load_pixels(image: Image.Image | bytes | Frames | SharedImage, size: int) -> Tensor:
    if isinstance(image, SharedImage):
        return image.load(size)
    if isinstance(image, tuple):
        return to_pixels([decode_image(frame) for frame in image], size)[None]
    return to_pixels([image if isinstance(image, Image.Image) else decode_image(image)], size)
