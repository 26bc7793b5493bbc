"""Images to texts: the captioner of CapFilt (BLIP paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from capfilt.models.config import SamplingConfig
from capfilt.models.decoding.generate import generate
from capfilt.models.decoding.state import Prompt
from capfilt.models.images.pixels import normalize
from capfilt.models.keyed_random import sequence_seed
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.precision import Precision
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.placement import Images, load, load_pixels, place


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A synthetic text and how it came about."""

    text: str
    """Without the prompt."""
    caption_index: int
    """0 to n - 1 among the captions of its image; of beams, 0 is the best."""
    seed: int
    """What its draws were keyed by (`sampling.sequence_seed`); beam search and greedy draw nothing."""
    logprob: float
    """Sum of the model's log-probabilities of its tokens, [SEP] included, natural logarithm."""


class Captioner:
    """Writes captions. A caption depends on its image, its key, its index, run seed and round, and on nothing
    else: not on the other images of the call, their order or the batch size.

    (In float32 that holds but for draws within rounding, 1e-6, of the border between two tokens. In bfloat16
    the same batches give the same captions; in batches of another shape a GPU may round otherwise, and now
    and then a word differs.)
    """

    def __init__(
        self,
        med: MED,
        tokenizer: Tokenizer,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        prompt: str = "a picture of ",
        sampling: SamplingConfig | None = None,
        batch_size: int = 64,
    ) -> None:
        """Takes the model over: it is moved, cast and put in eval mode (`inference.place`).

        `prompt` opens every caption and is not part of its text; BLIP's own is the default. `batch_size` is
        in images and is halved when the device runs out of memory. ValueError if the model has no decoder.
        """
        if not med.has_decoder:
            raise ValueError(
                f"this model's parts are {med.config.parts!r}: it has no decoder that reads images"
            )
        self.med = place(med, tokenizer, device, precision)
        self.tokenizer = tokenizer
        self.sampling = sampling or SamplingConfig()
        self.batches = MicroBatches(batch_size)
        limit = med.config.text.max_positions
        ids, _ = tokenizer.encode([prompt], max_length=limit, first="dec", sep=False)
        self.prompt = Prompt(ids=ids[0], end_id=tokenizer.sep_id, pad_id=tokenizer.pad_id)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        tokenizer: str | Path | None = None,
        image_size: int | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        prompt: str = "a picture of ",
        sampling: SamplingConfig | None = None,
        batch_size: int = 64,
    ) -> Self:
        """From any checkpoint `checkpoints.load_checkpoint` reads; of a pretrained one, the captioner's half.

        `tokenizer` is a folder, for files that carry none. `image_size` None keeps the checkpoint's.
        """
        med, words = load(path, "captioner", image_size, tokenizer)
        return cls(
            med,
            words,
            device=device,
            precision=precision,
            prompt=prompt,
            sampling=sampling,
            batch_size=batch_size,
        )

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return self.med.config.vision.image_size

    def caption(
        self, images: Images, keys: Sequence[str], *, n: int = 1, run_seed: int = 0, round: int = 0
    ) -> list[list[Caption]]:
        """n captions of each image, in the images' order.

        `keys` are the images' ids in their source: with run seed, round and a caption's index they decide
        every draw. Encoded bytes are decoded while the device works on the images before them.
        """
        if len(keys) != len(images):
            raise ValueError(f"{len(images)} images but {len(keys)} keys: one key per image is needed")
        captions: list[list[Caption]] = []
        for pixels in load_pixels(images, self.image_size, self.batches.size):
            of_batch = keys[len(captions) : len(captions) + len(pixels)]
            seeds = [[sequence_seed(run_seed, round, key, i) for i in range(n)] for key in of_batch]
            captions += self.batches.run(partial(self._caption, pixels, seeds), len(pixels))
        return captions

    @torch.inference_mode()
    def _caption(self, pixels: Tensor, seeds: list[list[int]], now: slice) -> list[list[Caption]]:
        pixels, seeds = pixels[now], seeds[now]
        weight = next(self.med.parameters())
        states = self.med.encode_image(normalize(pixels, weight.dtype, weight.device))
        n = len(seeds[0])
        flat_seeds = torch.tensor(seeds).flatten()
        made = generate(self.med, states, self.prompt, self.sampling, seeds=flat_seeds, n=n)
        texts = self._texts(made.ids.flatten(0, 1))
        logprobs = made.logprobs.tolist()
        return [
            [
                Caption(text=texts[row * n + i], caption_index=i, seed=seed, logprob=logprobs[row][i])
                for i, seed in enumerate(of_image)
            ]
            for row, of_image in enumerate(seeds)
        ]

    def _texts(self, ids: Tensor) -> list[str]:
        """New tokens [M, L] as text: decoded after the prompt, whose last word they may go on, less the prompt."""
        prompt = self.prompt.ids.tolist()
        start = len(self.tokenizer.decode(prompt))
        texts = self.tokenizer.decode_batch([prompt + row for row in ids.tolist()])
        return [text[start:].strip() for text in texts]
