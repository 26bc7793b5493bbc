"""Scores candidate answers in dialogs about images (BLIP paper, section 5.5).

Each image is encoded once with its caption, for all questions about it and all candidates of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from capfilt.models.images.pixels import normalize
from capfilt.models.network.attention import CrossKV, ImageRows
from capfilt.models.network.dialog import (
    DIALOG_TOKENS,
    check_dialog_model,
    encode_captions,
    encode_context,
    encode_dialogs,
)
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.options import DialogOptions
from capfilt.models.tasks.placement import Images, TaskModel


@dataclass(frozen=True, kw_only=True)
class DialogTurn:
    """A question in a dialog, with answers of which one fits."""

    history: Sequence[str] = ()
    """The questions and answers before it, in turn."""
    question: str
    candidates: Sequence[str]


class DialogRanker(TaskModel[DialogOptions]):
    """Scores how well candidates answer questions in dialogs about images."""

    parts = "filter"
    options_type = DialogOptions

    def __init__(
        self,
        med: MED,
        tokenizer: Tokenizer,
        options: DialogOptions | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        """Prepare a model; it is moved, cast and put in eval mode in place.

        Raises:
            ValueError: the model cannot read dialogs (`network.dialog.check_dialog_model`).
        """
        check_dialog_model(med)
        super().__init__(med, tokenizer, options, device=device)
        self._max_tokens = min(DIALOG_TOKENS, med.config.text.max_positions)
        self.batches = MicroBatches(self.options.batch_size, unit="images or dialogs")

    def score(
        self, images: Images, captions: Sequence[str], turns: Sequence[Sequence[DialogTurn]]
    ) -> list[list[list[float]]]:
        """The log-odds that each candidate answers its question.

        Args:
            images: the images.
            captions: a caption of each.
            turns: the questions about each.

        Returns:
            Of each image, of each question, the score of each candidate. Higher is better.
        """
        if not len(images) == len(captions) == len(turns):
            raise ValueError(
                f"{len(images)} images, {len(captions)} captions and {len(turns)} dialogs: pass one per image"
            )
        found: list[list[list[float]]] = []
        for pixels in self.pixel_batches(images, self.batches.size):
            states = self.batches.run(partial(self._encode, pixels), len(pixels))
            for of_image in states:
                found.append(self._score_image(of_image, captions[len(found)], turns[len(found)]))
        return found

    @torch.inference_mode()
    def _encode(self, pixels: Tensor, rows: slice) -> list[Tensor]:
        weight = next(self.med.parameters())
        return list(self.med.encode_image(normalize(pixels[rows], weight.dtype, weight.device)))

    @torch.inference_mode()
    def _score_image(self, states: Tensor, caption: str, turns: Sequence[DialogTurn]) -> list[list[float]]:
        ids, mask = encode_captions(self.tokenizer, [caption])
        device = states.device
        context = encode_context(self.med, states[None], (ids.to(device), mask.to(device)))
        dialogs = [
            [*turn.history, turn.question, candidate] for turn in turns for candidate in turn.candidates
        ]
        tokens = encode_dialogs(self.tokenizer, dialogs, self._max_tokens)
        order = tokens[1].sum(dim=1).argsort(stable=True)  # dialogs of similar length share a pass
        scores = torch.empty(len(dialogs))
        in_order = self.batches.run(partial(self._score_slice, context, tokens, order), len(dialogs))
        scores[order] = torch.tensor(in_order, dtype=torch.float32)
        return [part.tolist() for part in scores.split([len(turn.candidates) for turn in turns])]

    def _score_slice(
        self, context: tuple[CrossKV, Tensor], tokens: tuple[Tensor, Tensor], order: Tensor, rows: slice
    ) -> list[float]:
        (kv, mask_1L), (ids, mask), chosen = context, tokens, order[rows]
        device, length = mask_1L.device, int(mask[chosen].sum(dim=1).max())
        texts = len(chosen)
        images = ImageRows.plan(torch.zeros(texts, dtype=torch.long), texts, 1, device, mask_1L)
        logits = self.med.match(ids[chosen, :length].to(device), mask[chosen, :length].to(device), kv, images)
        return (logits[:, 1] - logits[:, 0]).tolist()
