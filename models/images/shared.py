"""Pixels that several models of one process take from one decode of each image.

Does not import torch before an image is decoded: the object is made where no model is loaded.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from capfilt.models.images.decode import decode_image

if TYPE_CHECKING:
    from torch import Tensor

KEPT_BYTES = 1_000_000_000
"""Most bytes of images and pixels that are kept: some 2,000 images in one size of 384 x 384. Further images
are decoded once more for each model."""


class SharedPixels:
    """Keeps the pixels of a shard's images in the sizes of several models, decoded once.

    The pixels are those of `decode_image` and `to_pixels`, whoever asks first. A copy in another process
    begins without models and images.

    Args:
        kept_bytes: most bytes of images and pixels that are kept.
    """

    def __init__(self, kept_bytes: int = KEPT_BYTES) -> None:
        self.kept_bytes = kept_bytes
        self._sizes: list[int] = []
        self._shard: str | None = None
        self._kept: dict[bytes, dict[int, Tensor]] = {}
        """Image → side → uint8 pixels [1, 3, S, S]. Equal images have equal pixels."""
        self._used = 0
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[SharedPixels], tuple[int]]:
        return type(self), (self.kept_bytes,)

    def add_models(self, sizes: Iterable[int]) -> None:
        """Tell the image sizes of models that will ask, one for each model."""
        self._sizes += sizes

    def of_shard(self, shard: str, images: Sequence[bytes]) -> list[SharedImage]:
        """Images of a shard, or of a part of it, whose pixels are shared with all models.

        Args:
            shard: name of the shard; the pixels of another one are dropped.
        """
        if shard != self._shard:
            self._kept, self._used, self._shard = {}, 0, shard
        return [SharedImage(self, image) for image in images]

    def load(self, image: bytes, size: int) -> Tensor:
        """Uint8 pixels [1, 3, size, size] of an encoded image. Thread-safe.

        Raises:
            ValueError: the bytes are no complete image.
        """
        from capfilt.models.images.pixels import to_pixels

        if (kept := self._kept.get(image)) is not None and size in kept:
            return kept[size]
        decoded = decode_image(image)
        sizes = {size, *self._sizes} if len(self._sizes) > 1 else {size}
        pixels = {each: to_pixels([decoded], each) for each in sizes}
        if len(self._sizes) > 1:
            self._keep(image, pixels)
        return pixels[size]

    def _keep(self, image: bytes, pixels: dict[int, Tensor]) -> None:
        needed = len(image) + sum(each.nbytes for each in pixels.values())
        with self._lock:
            if image not in self._kept and self._used + needed <= self.kept_bytes:
                self._kept[image] = pixels
                self._used += needed


@dataclass(frozen=True)
class SharedImage:
    """An encoded image, as a model takes it in place of bytes."""

    pixels: SharedPixels
    image: bytes

    def load(self, size: int) -> Tensor:
        """Uint8 pixels [1, 3, size, size]; see `SharedPixels.load`."""
        return self.pixels.load(self.image, size)
