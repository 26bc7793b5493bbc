"""The loss of visual dialog (BLIP paper, section 5.5): is an answer that of the question?

The dialog encoder is trained with ITM: for each question its answer is true, and the drawn candidates are
false. Dialogs of one image attend to one set of keys and values.

Shape suffixes: B images, of which each has one question, M = B * (1 + negatives) dialogs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional as F

from capfilt.models.config import ObjectiveConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.network.attention import ImageRows
from capfilt.models.network.dialog import check_dialog_model, encode_captions, encode_context, encode_dialogs
from capfilt.models.network.med import MED
from capfilt.models.training.objectives import Objective


class DialogBatch(TypedDict):
    """The questions of a worker for one step."""

    pixels: Tensor
    """uint8 [B, 3, S, S]: the image of each question."""
    captions: Sequence[str]
    """B captions of the images."""
    histories: Sequence[Sequence[str]]
    """Of each question: the questions and answers before it and the question itself."""
    answers: Sequence[Sequence[str]]
    """Of each question: its answer, then the false ones; as many for every question."""


class DialogObjective(Objective):
    """A "filter" with the loss of its dialogs; constructed and stored as `Objective` is."""

    @staticmethod
    def check_parts(med: MED, config: ObjectiveConfig) -> None:
        """Check that the model reads dialogs, and that the loss is "itm".

        Raises:
            ValueError: it does not, or it is not.
        """
        check_dialog_model(med)
        if config.losses != ("itm",):
            raise ValueError(
                f"losses {', '.join(config.losses)} cannot train dialogs: the loss itm is needed"
            )

    def forward(  # type: ignore[override]  # another kind of batch
        self, batch: DialogBatch, epoch: float = float("inf")
    ) -> dict[str, Tensor]:
        """The cross-entropy of a batch; true and false answers have the same weight each.

        The batches of all workers must have the same B and as many answers.

        Args:
            epoch: not used.

        Returns:
            Scalars: "loss" (to differentiate), "itm", "itm_accuracy".
        """
        device = next(self.med.parameters()).device
        states_BNW = self.med.encode_image(normalize(batch["pixels"], device=device))
        caption_ids, caption_mask = encode_captions(self.tokenizer, batch["captions"])
        kv, mask_BL = encode_context(self.med, states_BNW, (caption_ids.to(device), caption_mask.to(device)))
        pairs = list(zip(batch["histories"], batch["answers"], strict=True))
        dialogs = [[*history, answer] for history, answers in pairs for answer in answers]
        longest = min(self.config.max_tokens, self.med.config.text.max_positions)
        ids_MT, mask_MT = encode_dialogs(self.tokenizer, dialogs, longest)
        count = len(dialogs) // len(pairs)
        images_M = torch.arange(len(pairs)).repeat_interleave(count)
        rows = ImageRows.plan(images_M, len(dialogs), len(pairs), device, mask_BL)
        logits_M2 = self.med.match(ids_MT.to(device), mask_MT.to(device), kv, rows)
        labels_M = (torch.arange(len(dialogs), device=device) % count == 0).long()
        losses_M = F.cross_entropy(logits_M2, labels_M, reduction="none")
        # Half of the weight belongs to the true answers, however many false ones are drawn.
        weight_M = torch.where(labels_M.bool(), 0.5, 0.5 / max(1, count - 1)) / len(pairs)
        loss = (losses_M * weight_M).sum()
        accuracy = ((logits_M2.detach().argmax(dim=1) == labels_M) * weight_M).sum()
        if self.training:
            self.step += 1
        return {"loss": loss, "itm": loss.detach(), "itm_accuracy": accuracy}
