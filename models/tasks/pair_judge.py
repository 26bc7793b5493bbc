"""Judges whether sentences are true of pairs of images (BLIP paper, section 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from capfilt.models.caption_text import normalize_caption
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.options import STATEMENT_TOKENS, JudgeOptions
from capfilt.models.tasks.placement import TaskModel

ImagePair = tuple[Image.Image | bytes, Image.Image | bytes]


class PairJudge(TaskModel[JudgeOptions]):
    """Gives the probability that a sentence is true of its two images."""

    parts = "nlvr"
    options_type = JudgeOptions

    def __init__(
        self,
        med: MED,
        tokenizer: Tokenizer,
        options: JudgeOptions | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        """Prepare a model; it is moved, cast and put in eval mode in place.

        Raises:
            ValueError: the model does not judge pairs of images.
        """
        if med.config.parts != "nlvr":
            raise ValueError(
                f'the model is a "{med.config.parts}" and does not judge pairs of images: use an "nlvr", '
                "which a task of kind nlvr2 finetunes"
            )
        super().__init__(med, tokenizer, options, device=device)
        self._max_tokens = min(STATEMENT_TOKENS, med.config.text.max_positions)
        self.batches = MicroBatches(self.options.batch_size, unit="pairs of images")

    def judge(self, pairs: Sequence[ImagePair], sentences: Sequence[str]) -> list[float]:
        """The probability that the sentence of each pair is true of it."""
        if len(sentences) != len(pairs):
            raise ValueError(f"{len(pairs)} pairs but {len(sentences)} sentences: pass one per pair")
        # The images of a pair are neighbors, and a batch has whole pairs.
        images = [image for pair in pairs for image in pair]
        found: list[float] = []
        for pixels in self.pixel_batches(images, 2 * self.batches.size):
            texts = sentences[len(found) : len(found) + len(pixels) // 2]
            found += self.batches.run(partial(self._judge_slice, pixels, texts), len(texts))
        return found

    @torch.inference_mode()
    def _judge_slice(self, pixels: Tensor, sentences: Sequence[str], rows: slice) -> list[float]:
        weight = next(self.med.parameters())
        texts = [normalize_caption(text) for text in sentences[rows]]
        of_pairs = pixels.view(-1, 2, *pixels.shape[1:])[rows].flatten(0, 1)
        states = self.med.encode_image(normalize(of_pairs, weight.dtype, weight.device))
        ids, mask = self.tokenizer.encode(texts, self._max_tokens, first="enc")
        pair_kv = self.med.pair_kv(states[0::2], states[1::2])
        logits = self.med.judge_pair(ids.to(weight.device), mask.to(weight.device), pair_kv)
        return logits.softmax(-1)[:, 1].tolist()
