"""What captioner and matcher share: where they run, in what precision, in how large micro-batches."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from capfilt.models.checkpoints.load import load_checkpoint
from capfilt.models.config import Parts
from capfilt.models.images.decode import decode_image
from capfilt.models.images.pixels import to_pixels
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.precision import Precision, uses_bfloat16

log = logging.getLogger(__name__)

Images = Sequence[Image.Image | bytes] | Tensor
"""Pictures, their encoded bytes, or pixels uint8 [B, 3, S, S] of the model's own size."""

DECODING_THREADS = 4
"""Pillow decodes and resizes without holding Python's lock; more threads than this outrun one GPU's ViT-B."""


def load(
    path: str | Path, parts: Parts, image_size: int | None, tokenizer: str | Path | None
) -> tuple[MED, Tokenizer]:
    """`load_checkpoint`; what it noted about the file is logged."""
    med, words, info = load_checkpoint(path, parts, image_size=image_size, tokenizer=tokenizer)
    for note in info.notes:
        log.warning("%s: %s", path, note)
    return med, words


def place(med: MED, tokenizer: Tokenizer, device: str | torch.device, precision: Precision) -> MED:
    """The model made ready for inference: moved, cast, in eval mode. In place, as `nn.Module.to` does.

    `device` "auto" is the GPU if there is one; `precision` "auto" is bfloat16 on GPUs that have it natively.
    """
    if tokenizer.vocab_size > med.config.text.vocab_size:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocab_size} tokens, the model only "
            f"{med.config.text.vocab_size}: they do not belong together"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    dtype = torch.bfloat16 if uses_bfloat16(precision, device) else torch.float32
    return med.to(device=device, dtype=dtype).eval()


def load_pixels(images: Images, size: int, batch_size: int) -> Iterator[Tensor]:
    """Pixels uint8 [b, 3, size, size], `batch_size` images at a time; the next batch is decoded meanwhile.

    Raises ValueError for pixels of another size or type, and for bytes that are no whole image.
    """
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size):
            raise ValueError(
                f"images has type {images.dtype} and shape {list(images.shape)}; this model takes "
                f"torch.uint8 [B, 3, {size}, {size}] (models.images.pixels.to_pixels makes it)"
            )
        yield from images.split(batch_size)
        return
    with ThreadPoolExecutor(DECODING_THREADS) as pool:
        waiting: deque[list[Future[Tensor]]] = deque()
        try:
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size]
                waiting.append([pool.submit(_load_one, image, size) for image in batch])
                if len(waiting) > 1:
                    yield torch.cat([image.result() for image in waiting.popleft()])
            while waiting:
                yield torch.cat([image.result() for image in waiting.popleft()])
        finally:  # an error, here or at the reader's: do not decode what nobody will take
            pool.shutdown(cancel_futures=True)


def _load_one(image: Image.Image | bytes, size: int) -> Tensor:
    return to_pixels([image if isinstance(image, Image.Image) else decode_image(image)], size)
