"""What captioner and matcher share: where they run, in what precision, in how large micro-batches."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor

from capfilt.models.checkpoints.load import load_checkpoint
from capfilt.models.config import Parts
from capfilt.models.images.decode import decode_image
from capfilt.models.images.pixels import to_pixels
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.models.precision import Precision, uses_bfloat16

log = logging.getLogger(__name__)

Images = Sequence[Image.Image | bytes] | Tensor
"""Pictures, their encoded bytes, or pixels uint8 [B, 3, S, S] of the model's own size."""
Done = TypeVar("Done")
Row = TypeVar("Row")

OUT_OF_MEMORY = (
    "out of memory",  # CUDA's runtime ("CUDA error: out of memory") and NCCL ("Cuda failure 2 'out of memory'")
    "allocate memory",  # torch's CPU allocator, and what Linux calls ENOMEM
    "not enough memory",  # torch's CPU allocator on Windows
    "bad_alloc",  # C++
    "ALLOC_FAILED",  # cuBLAS, and cuDNN before version 9
    "ALLOCATION_FAILED",  # cuDNN
)
"""What errors say for which torch has no class of its own."""
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


class MicroBatches:
    """Runs a function over images, or items of another kind, at most `size` at a time; halved for good when device or
    host lack memory.

    `on_progress` is called after each micro-batch, `on_notice` with a line for people when the size is halved.

    Args:
        size: items at a time.
        of: what they are called.
    """

    def __init__(self, size: int, of: str = "images") -> None:
        if size < 1:
            raise ValueError(f"batch_size is {size}; it must be at least 1")
        self.size, self.of = size, of
        self.on_progress: Callable[[], None] = lambda: None
        self.on_notice: Callable[[str], None] = log.warning

    def run(self, function: Callable[[slice], list[Row]], count: int) -> list[Row]:
        """One result for each of `count` items, in order; `function` gives those of a slice.

        Raises:
            OutOfMemory: as `fit`.
        """
        results: list[Row] = []
        while len(results) < count:
            results += self.fit(partial(_next, function, len(results)), count - len(results))
        return results

    def fit(self, function: Callable[[int], Done], most: int) -> Done:
        """What `function` gives for as many items at a time as there is memory for, at most `most` (at least 1).

        It is called anew with fewer when memory did not suffice, and does again what it had done by then.

        Raises:
            OutOfMemory: not even one item at a time fits.
        """
        before = self.size
        while True:
            tried = min(self.size, most)
            try:
                done = function(tried)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if tried == 1:
                    self.size = before  # what no size cures says nothing of the size
                    raise self._shortage() from error
            else:
                self.on_progress()
                return done
            # Outside the handler, whose traceback held the tensors of the failed attempt.
            self._halve(tried)

    def _halve(self, tried: int) -> None:
        self.size = tried // 2
        self.on_notice(f"out of memory with {tried} {self.of} at once, going on with {self.size}")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _shortage(self) -> OutOfMemory:
        return OutOfMemory(
            f"out of memory even with {self.of} one at a time; end what else holds memory of the device and the "
            "host, or give precision bfloat16 or a smaller image_size"
        )


def _next(function: Callable[[slice], Done], start: int, size: int) -> Done:
    return function(slice(start, start + size))


def is_out_of_memory(error: Exception) -> bool:
    """Whether device or host lacked memory. Beside the error torch has for the device, its CPU allocator and
    CUDA's libraries raise plain RuntimeErrors, told by their text alone, and the system OSErrors."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, (RuntimeError, OSError)) and any(words in str(error) for words in OUT_OF_MEMORY)
