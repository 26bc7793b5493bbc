"""The loss of question answering (BLIP paper, section 5.3): language modeling of weighted answers.

The encoder reads a question together with its image, the decoder predicts the answers from the states of the
question. Every different answer of a question is a target; its weight is the share of annotators who gave it.

Shape suffixes: B images, of which each has one question, M answers, T tokens, P predicted
tokens, D text width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import torch
from torch import Tensor

from capfilt.models.caption_text import normalize_caption
from capfilt.models.config import ObjectiveConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.network.attention import ImageRows
from capfilt.models.network.med import MED, Questions
from capfilt.models.training.language_loss import token_losses
from capfilt.models.training.objectives import Objective


class AnswerBatch(TypedDict):
    """The questions of a worker for one step."""

    pixels: Tensor
    """uint8 [B, 3, S, S]: the image of each question."""
    questions: Sequence[str]
    """B questions."""
    answers: Sequence[Sequence[str]]
    """The different answers to each question, at least one."""
    weights: Sequence[Sequence[float]]
    """The weight of each answer."""


class AnswerObjective(Objective):
    """A "vqa" with the loss of its answers; constructed and stored as `Objective` is."""

    @staticmethod
    def check_parts(med: MED, config: ObjectiveConfig) -> None:
        """Check that the model answers questions, and that the loss is "lm".

        Raises:
            ValueError: it does not, or it is not.
        """
        if med.config.parts != "vqa" or config.losses != ("lm",):
            raise ValueError(
                f'losses {", ".join(config.losses)} cannot train a "{med.config.parts}" to answer questions: '
                'a "vqa" and the loss lm are needed'
            )

    def forward(  # type: ignore[override]  # another kind of batch
        self, batch: AnswerBatch, epoch: float = float("inf")
    ) -> dict[str, Tensor]:
        """The loss of a batch: for each question the weighted sum of the negative log-likelihoods of its
        answers, [SEP] included, with label smoothing; then the mean over the questions.

        The batches of all workers must have the same B.

        Args:
            epoch: not used.

        Returns:
            Scalars: "loss" (to differentiate) and "lm".
        """
        device = next(self.med.parameters()).device
        states_BNW = self.med.encode_image(normalize(batch["pixels"], device=device))
        texts = [normalize_caption(text, self.config.max_words) for text in batch["questions"]]
        encoded = self.tokenizer.encode(texts, self.config.max_tokens, first="enc")
        ids_BT, mask_BT = (x.to(device) for x in encoded)
        question_BTD = self.med.encode_text(ids_BT, mask_BT, self.med.cross_kv(states_BNW, "encoder"))
        questions = Questions(kv=self.med.cross_kv(question_BTD, "decoder"), mask_QN=mask_BT)
        answers = [answer for of_question in batch["answers"] for answer in of_question]
        counts = torch.tensor([len(of_question) for of_question in batch["answers"]])
        weight_M = torch.tensor([weight for of_question in batch["weights"] for weight in of_question])
        question_M = torch.arange(len(counts)).repeat_interleave(counts)
        loss_M = self._answer_losses(answers, questions, question_M)
        loss = (loss_M * weight_M.to(device)).sum() / len(counts)
        if self.training:
            self.step += 1
        return {"loss": loss, "lm": loss.detach()}

    def _answer_losses(self, answers: list[str], questions: Questions, question_M: Tensor) -> Tensor:
        """The negative log-likelihood of each answer, summed over its tokens, with label smoothing; [M]."""
        device = questions.kv[0][0].device
        ids_MT, mask_MT = self.tokenizer.encode(answers, self.config.max_tokens, first="dec")
        # Positions are selected on the host, where the mask is; only they go through the vocabulary.
        answer_P, token_P = mask_MT[:, 1:].nonzero(as_tuple=True)
        targets_P = ids_MT[:, 1:][answer_P, token_P].to(device)
        count = questions.kv[0][0].shape[0]
        rows = ImageRows.plan(question_M, len(answers), count, device, questions.mask_QN)
        states_MTD = self.med.decode_states(ids_MT[:, :-1].to(device), questions.kv, rows)
        answer_P, token_P = answer_P.to(device), token_P.to(device)
        smoothing = self.config.label_smoothing
        losses_P = token_losses(self.med.lm_logits, states_MTD[answer_P, token_P], targets_P, smoothing)
        return losses_P.new_zeros(len(answers)).index_add(0, answer_P, losses_P)
