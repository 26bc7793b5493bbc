"""The loss of NLVR2 (BLIP paper, section 5.4): is a sentence true of two images?

Shape suffixes: B pairs of images, each with one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor
from torch.nn import functional as F

from capfilt.models.caption_text import normalize_caption
from capfilt.models.config import ObjectiveConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED
from capfilt.models.training.objectives import Objective

SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
OTHER_SIDE = {"left": "right", "right": "left"}


class StatementBatch(TypedDict):
    """The statements of a worker for one step."""

    pixels: Tensor
    """uint8 [2B, 3, S, S]: the first image of every pair, then the second of every pair."""
    texts: Sequence[str]
    """B sentences."""
    labels: Tensor
    """int64 [B]: 1 if the sentence is true of its pair."""


class StatementObjective(Objective):
    """An "nlvr" with the loss of its classifier; constructed and stored as `Objective` is."""

    @staticmethod
    def check_parts(med: MED, config: ObjectiveConfig) -> None:
        """Check that the model judges pairs, and that the loss is "itm".

        Raises:
            ValueError: it does not, or it is not.
        """
        if med.config.parts != "nlvr" or config.losses != ("itm",):
            raise ValueError(
                f'losses {", ".join(config.losses)} cannot train a "{med.config.parts}" to judge pairs of '
                'images: an "nlvr" and the loss itm are needed'
            )

    def forward(  # type: ignore[override]  # another kind of batch
        self, batch: StatementBatch, epoch: float = float("inf")
    ) -> dict[str, Tensor]:
        """The cross-entropy of a batch. The batches of all workers must have the same B.

        Args:
            epoch: not used.

        Returns:
            Scalars: "loss" (to differentiate), "itm", "itm_accuracy".
        """
        device = next(self.med.parameters()).device
        states = self.med.encode_image(normalize(batch["pixels"], device=device))
        first_BNW, second_BNW = states.chunk(2)
        texts = [normalize_caption(text, self.config.max_words) for text in batch["texts"]]
        ids, mask = self.tokenizer.encode(texts, self.config.max_tokens, first="enc")
        pairs = self.med.pair_kv(first_BNW, second_BNW)
        logits_B2 = self.med.judge_pair(ids.to(device), mask.to(device), pairs)
        labels_B = batch["labels"].to(device)
        loss = F.cross_entropy(logits_B2, labels_B)
        accuracy = (logits_B2.detach().argmax(dim=1) == labels_B).float().mean()
        if self.training:
            self.step += 1
        return {"loss": loss, "itm": loss.detach(), "itm_accuracy": accuracy}


def exchange_sides(sentence: str) -> str:
    """The sentence after its two images have changed places: "left" becomes "right" and the reverse."""
    return SIDES.sub(lambda side: OTHER_SIDE[side[0].lower()], sentence)
