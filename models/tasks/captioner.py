"""The captioner of CapFilt: writes texts for images (BLIP paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from capfilt.models.decoding.generate import generate
from capfilt.models.decoding.state import GenerationRequest, Prompt
from capfilt.models.images.pixels import normalize
from capfilt.models.keyed_random import sequence_seed
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.options import CaptionerOptions
from capfilt.models.tasks.placement import Images, TaskModel


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A synthetic text and how it was generated."""

    text: str
    """The text without the prompt."""
    caption_index: int
    """Index among the captions of the image, from 0; with beam search 0 is the best."""
    seed: int
    """Key of its random draws (`keyed_random.sequence_seed`); beam search and greedy decoding draw
    nothing."""
    logprob: float
    """Sum of the model's log-probabilities (natural logarithm) of its tokens, [SEP] included."""
    tokens: int
    """Number of these tokens; `logprob / tokens` compares captions of different lengths."""


class Captioner(TaskModel[CaptionerOptions]):
    """Writes captions.

    A caption depends only on its image, its key, its index, the run seed and the round: not on the other
    images of the call, their order or the batch size. Two exceptions come from rounding. In float32 a draw
    within 1e-6 of the border between two tokens can differ. In bfloat16 batches of another shape can be
    rounded differently on a GPU, so that occasionally a word differs; the same batches always give the same
    captions.
    """

    parts = "captioner"
    options_type = CaptionerOptions

    def __init__(
        self,
        med: MED,
        tokenizer: Tokenizer,
        options: CaptionerOptions | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        """Prepare a model for captioning; it is moved, cast and put in eval mode in place.

        Raises:
            ValueError: the model has no decoder that attends to images.
        """
        if not med.has_decoder:
            raise ValueError(
                f'the model is a "{med.config.parts}" and has no decoder for captions: '
                'use a "captioner" or a "pretrain"'
            )
        super().__init__(med, tokenizer, options, device=device)
        self.batches = MicroBatches(self.options.batch_size)
        max_positions = med.config.text.max_positions
        ids, _ = tokenizer.encode([self.options.prompt], max_length=max_positions, first="dec", sep=False)
        self.prompt = Prompt(ids=ids[0], end_id=tokenizer.sep_id, pad_id=tokenizer.pad_id)

    def caption(
        self,
        images: Images,
        keys: Sequence[str],
        *,
        n: int = 1,
        first: int = 0,
        run_seed: int = 0,
        round: int = 0,
    ) -> list[list[Caption]]:
        """Write n captions for each image, numbered from `first` on.

        `keys` are the ids of the images in their source. Together with run seed, round and caption index they
        determine every random draw. Encoded images are decoded while the device processes the previous batch.
        """
        if len(keys) != len(images):
            raise ValueError(f"{len(images)} images but {len(keys)} keys: pass one key per image")
        captions: list[list[Caption]] = []
        for pixels in self.pixel_batches(images, self.batches.size):
            batch_keys = keys[len(captions) : len(captions) + len(pixels)]
            seeds = [[sequence_seed(run_seed, round, key, first + i) for i in range(n)] for key in batch_keys]
            captions += self.batches.run(partial(self._caption_slice, pixels, seeds), len(pixels))
        if first:
            captions = [
                [replace(caption, caption_index=first + caption.caption_index) for caption in of_image]
                for of_image in captions
            ]
        return captions

    @torch.inference_mode()
    def _caption_slice(self, pixels: Tensor, seeds: list[list[int]], rows: slice) -> list[list[Caption]]:
        pixels, seeds = pixels[rows], seeds[rows]
        weight = next(self.med.parameters())
        states = self.med.encode_image(normalize(pixels, weight.dtype, weight.device))
        n = len(seeds[0])
        request = GenerationRequest(
            prompt=self.prompt, sampling=self.options.sampling, n=n, seeds=torch.tensor(seeds).flatten()
        )
        generated = generate(self.med, states, request)
        texts = self._decode(generated.ids.flatten(0, 1))
        logprobs = generated.logprobs.tolist()
        tokens = _count_tokens(generated.ids, self.prompt.end_id).tolist()
        return [
            [
                Caption(
                    text=texts[row * n + i],
                    caption_index=i,
                    seed=seed,
                    logprob=logprobs[row][i],
                    tokens=tokens[row][i],
                )
                for i, seed in enumerate(image_seeds)
            ]
            for row, image_seeds in enumerate(seeds)
        ]

    def _decode(self, ids: Tensor) -> list[str]:
        """The texts of new tokens [M, L].

        The tokens are decoded after the prompt, because the first one may continue the prompt's last word;
        then the prompt is removed.
        """
        prompt = self.prompt.ids.tolist()
        start = len(self.tokenizer.decode(prompt))
        texts = self.tokenizer.decode_batch([prompt + row for row in ids.tolist()])
        return [text[start:].strip() for text in texts]


def _count_tokens(ids: Tensor, end_id: int) -> Tensor:
    """Tokens with the end token, [B, n], of new tokens [B, n, L]; L where the end was not reached."""
    after_end = ((ids == end_id).cumsum(-1) - (ids == end_id).long()) > 0
    return (~after_end).sum(-1)
