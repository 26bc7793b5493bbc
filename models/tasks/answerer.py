"""Answers questions about images (BLIP paper, section 5.3): by ranking a list of answers, or freely.

Ranking follows the reference: the k answers whose first token is most probable are compared by their exact
likelihood. Unlike the reference, which re-scores with label smoothing, this likelihood is the model's own.

Shapes: B images, each with one question; C candidates, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from capfilt.models.caption_text import normalize_caption
from capfilt.models.decoding.generate import generate
from capfilt.models.decoding.state import GenerationRequest, Prompt
from capfilt.models.images.pixels import normalize
from capfilt.models.network.med import MED, Questions
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.models.tasks.options import MAX_TOKENS, AnswererOptions
from capfilt.models.tasks.placement import Images, TaskModel

SEQUENCES_PER_PASS = 256
"""Answers that are scored together, which bounds the memory of their logits."""

Work = Callable[[Tensor, Tensor], "list[Answer]"]
"""Answers questions from their states [B, T, D] and their mask [B, T]."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer and how probable it is."""

    text: str
    logprob: float
    """Sum of the log-probabilities (natural logarithm) of its tokens, [SEP] included."""


class Answerer(TaskModel[AnswererOptions]):
    """Answers questions. Each image is encoded once with its question."""

    parts = "vqa"
    options_type = AnswererOptions

    def __init__(
        self,
        med: MED,
        tokenizer: Tokenizer,
        options: AnswererOptions | None = None,
        *,
        device: str | torch.device = "auto",
    ) -> None:
        """Prepare a model for answering; it is moved, cast and put in eval mode in place.

        Raises:
            ValueError: the model does not answer questions.
        """
        if med.config.parts != "vqa":
            raise ValueError(
                f'the model is a "{med.config.parts}" and does not answer questions: use a "vqa", which a '
                "task of kind vqa finetunes"
            )
        super().__init__(med, tokenizer, options, device=device)
        self.batches = MicroBatches(self.options.batch_size, unit="questions")
        self._max_tokens = min(MAX_TOKENS, med.config.text.max_positions)
        self._prompt = Prompt(
            ids=torch.tensor([tokenizer.dec_id]), end_id=tokenizer.sep_id, pad_id=tokenizer.pad_id
        )

    def answer(self, images: Images, questions: Sequence[str]) -> list[Answer]:
        """Answer the question of each image freely, by beam search."""
        return self._run(images, questions, self._generate)

    def rank(self, images: Images, questions: Sequence[str], candidates: Sequence[str]) -> list[Answer]:
        """The most probable of the candidates for the question of each image.

        Args:
            candidates: at least one; only the `k` with the most probable first token are compared.
        """
        if not candidates:
            raise ValueError("there are no answers to rank: give at least one candidate")
        ids, mask = self.tokenizer.encode(list(candidates), self._max_tokens, first="dec")
        return self._run(images, questions, partial(self._rank, candidates, (ids, mask)))

    def _run(self, images: Images, questions: Sequence[str], work: Work) -> list[Answer]:
        if len(questions) != len(images):
            raise ValueError(f"{len(images)} images but {len(questions)} questions: pass one per image")
        answers: list[Answer] = []
        for pixels in self.pixel_batches(images, self.batches.size):
            texts = questions[len(answers) : len(answers) + len(pixels)]
            answers += self.batches.run(partial(self._answer_slice, pixels, texts, work), len(pixels))
        return answers

    @torch.inference_mode()
    def _answer_slice(
        self, pixels: Tensor, questions: Sequence[str], work: Work, rows: slice
    ) -> list[Answer]:
        weight = next(self.med.parameters())
        states = self.med.encode_image(normalize(pixels[rows], weight.dtype, weight.device))
        texts = [normalize_caption(text) for text in questions[rows]]
        ids, mask = self.tokenizer.encode(texts, self._max_tokens, first="enc")
        ids, mask = ids.to(weight.device), mask.to(weight.device)
        return work(self.med.encode_text(ids, mask, self.med.cross_kv(states, "encoder")), mask)

    def _generate(self, states: Tensor, mask: Tensor) -> list[Answer]:
        request = GenerationRequest(prompt=self._prompt, sampling=self.options.sampling)
        generated = generate(self.med, states, request, mask=mask)
        texts = self.tokenizer.decode_batch(generated.ids[:, 0].tolist())
        logprobs = generated.logprobs[:, 0].tolist()
        return [Answer(text=text, logprob=value) for text, value in zip(texts, logprobs, strict=True)]

    def _rank(
        self, candidates: Sequence[str], tokens: tuple[Tensor, Tensor], states: Tensor, of_question: Tensor
    ) -> list[Answer]:
        ids, mask = tokens
        questions = Questions(kv=self.med.cross_kv(states, "decoder"), mask_QN=of_question)
        count, k = len(states), min(self.options.k, len(candidates))
        opening = self._prompt.ids.to(states.device).expand(count, 1)
        first = self.med.answer(opening, questions)[:, -1].float().log_softmax(-1)
        # Stable, so that of candidates with one first token the earlier ones are taken.
        chosen = (
            first[:, ids[:, 1].to(states.device)].sort(dim=1, descending=True, stable=True).indices[:, :k]
        )
        scores = self._score(ids, mask, chosen.cpu(), questions).view(count, k)
        best = scores.argmax(dim=1, keepdim=True)
        numbers = chosen.cpu().gather(1, best)[:, 0].tolist()
        logprobs = scores.gather(1, best)[:, 0].tolist()
        return [Answer(text=candidates[i], logprob=value) for i, value in zip(numbers, logprobs, strict=True)]

    def _score(self, ids: Tensor, mask: Tensor, chosen: Tensor, questions: Questions) -> Tensor:
        """Log-likelihoods of the chosen candidates [B, k] of each question, [B * k] on the host."""
        device = questions.kv[0][0].device
        rows = chosen.flatten()
        question = torch.arange(len(chosen)).repeat_interleave(chosen.shape[1])
        parts = []
        for part, of_part in zip(
            rows.split(SEQUENCES_PER_PASS), question.split(SEQUENCES_PER_PASS), strict=True
        ):
            length = int(mask[part].sum(dim=1).max())
            tokens, used = ids[part, :length].to(device), mask[part, 1:length].to(device)
            logprobs = self.med.answer(tokens[:, :-1], questions, of_part).float().log_softmax(-1)
            of_tokens = logprobs.gather(2, tokens[:, 1:, None])[..., 0]
            parts.append((of_tokens * used).sum(dim=1).cpu())
        return torch.cat(parts)
