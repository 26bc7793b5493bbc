"""Images and texts to scores: the filter of CapFilt (BLIP paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from capfilt.models.images.pixels import normalize
from capfilt.models.network.attention import CrossKV
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.precision import Precision
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.placement import Images, load, load_pixels, place


@dataclass(frozen=True)
class Score:
    """How well a text fits its image."""

    itm_prob: float
    """Probability of "matched", softmax of the ITM head; the paper keeps a text from 0.5 on."""
    itc_sim: float
    """Cosine of the image's and the text's ITC features."""


class Matcher:
    """Scores texts against their images. Each image is encoded once for all of its texts."""

    def __init__(
        self,
        med: MED,
        tokenizer: Tokenizer,
        *,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        itm_token: Literal["enc", "cls"] = "enc",
        batch_size: int = 64,
        max_tokens: int = 35,
    ) -> None:
        """Takes the model over: it is moved, cast and put in eval mode (`inference.place`).

        `itm_token` opens a text for the ITM head: "enc" as the head was trained, "cls" as transformers and
        BLIP's blip_itm.py have it, by mistake. `batch_size` is in images, and in texts of one pass; it is
        halved when the device runs out of memory. Texts are cut at `max_tokens`, 35 in BLIP's retrieval.
        ValueError if the model has no text encoder.
        """
        if not med.has_encoder:
            raise ValueError(
                f"this model's parts are {med.config.parts!r}: it has no text encoder with the heads of ITM and ITC"
            )
        self.med = place(med, tokenizer, device, precision)
        self.tokenizer = tokenizer
        self.itm_id = {"enc": tokenizer.enc_id, "cls": tokenizer.cls_id}[itm_token]
        self.batches = MicroBatches(batch_size, of="images or texts")
        self.max_tokens = max_tokens

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        tokenizer: str | Path | None = None,
        image_size: int | None = None,
        device: str | torch.device = "auto",
        precision: Precision = "auto",
        itm_token: Literal["enc", "cls"] = "enc",
        batch_size: int = 64,
        max_tokens: int = 35,
    ) -> Self:
        """From any checkpoint `checkpoints.load_checkpoint` reads; of a pretrained one, the filter's half.

        `tokenizer` is a folder, for files that carry none. `image_size` None keeps the checkpoint's.
        """
        med, words = load(path, "filter", image_size, tokenizer)
        return cls(
            med,
            words,
            device=device,
            precision=precision,
            itm_token=itm_token,
            batch_size=batch_size,
            max_tokens=max_tokens,
        )

    @property
    def image_size(self) -> int:
        """Side of the square input, in pixels."""
        return self.med.config.vision.image_size

    def match(self, images: Images, texts: Sequence[Sequence[str]]) -> list[list[Score]]:
        """One score for each text of each image, in the order given; texts are read as they are.

        BLIP trained on captions in the form of `tokenizer.normalise_caption`. An image without texts costs
        nothing. Encoded bytes are decoded while the device works on the images before them.
        """
        if len(texts) != len(images):
            raise ValueError(
                f"{len(images)} images but {len(texts)} lists of texts: one list per image is needed"
            )
        asked = [i for i, of_image in enumerate(texts) if of_image]
        wanted = images[asked] if isinstance(images, Tensor) else [images[i] for i in asked]
        scores: list[list[Score]] = [[] for _ in texts]
        done = 0
        for pixels in load_pixels(wanted, self.image_size, self.batches.size):
            rows_of_batch = asked[done : done + len(pixels)]
            judged = self._judge(pixels, [texts[i] for i in rows_of_batch])
            for i, of_image in zip(rows_of_batch, judged, strict=True):
                scores[i] = of_image
            done += len(pixels)
        return scores

    def _judge(self, pixels: Tensor, texts: Sequence[Sequence[str]]) -> list[list[Score]]:
        """Scores of images [B, 3, S, S] that have texts, in micro-batches."""
        scores: list[list[Score]] = []
        while len(scores) < len(texts):
            left = texts[len(scores) :]
            # Of few images with many texts each, the texts decide how much memory it takes.
            most = max(len(left), sum(map(len, left[: self.batches.size])))
            scores += self.batches.fit(partial(self._match, pixels[len(scores) :], left), most)
        return scores

    @torch.inference_mode()
    def _match(self, pixels: Tensor, texts: Sequence[Sequence[str]], size: int) -> list[list[Score]]:
        """Scores of the first `size` images; their texts are read `size` at a time too."""
        pixels, texts = pixels[:size], texts[:size]
        weight = next(self.med.parameters())
        states = self.med.encode_image(normalize(pixels, weight.dtype, weight.device))
        features = self.med.image_feature(states)
        cross_kv = self.med.cross_kv(states, which="encoder")
        image_of_text = torch.tensor([row for row, of_image in enumerate(texts) for _ in of_image])
        ids, mask = self.tokenizer.encode([t for of_image in texts for t in of_image], self.max_tokens)
        order = mask.sum(1).argsort(stable=True)  # texts of about one length go together: little padding
        scores = torch.empty(len(ids), 2, device=weight.device)
        for rows in order.split(size):
            length = int(mask[rows].sum(1).max())
            scores[rows.to(weight.device)] = self._scores(
                ids[rows, :length], mask[rows, :length], image_of_text[rows], features, cross_kv
            )
        pairs = iter(scores.tolist())
        return [[Score(*next(pairs)) for _ in of_image] for of_image in texts]

    def _scores(
        self, ids: Tensor, mask: Tensor, image_of_text: Tensor, features: Tensor, cross_kv: CrossKV
    ) -> Tensor:
        """ITM probability and ITC cosine, [M, 2], of the texts ids, mask [M, T] (which open with [CLS])."""
        device = features.device
        ids, mask = ids.to(device), mask.to(device)
        cosine = (self.med.text_feature(ids, mask) * features[image_of_text.to(device)]).sum(-1)
        ids[:, 0] = self.itm_id
        matched = self.med.match(ids, mask, cross_kv, image_index=image_of_text).softmax(-1)[:, 1]
        return torch.stack([matched, cosine], dim=1)
