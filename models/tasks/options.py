"""Options of the tasks, and the only definition of their defaults. Does not import
torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from capfilt.models.config import Precision
from capfilt.models.decoding.config import SamplingConfig

BATCH_SIZE = 64
RERANKED = 256
"""Best ITC candidates of a query that the ITM head ranks again (reference: k_test, 256 for COCO, 128 for
Flickr30k)."""
MAX_TOKENS = 35
"""Longest text that matching and retrieval read, in tokens, as in the reference's retrieval evaluation."""

RANKED_ANSWERS = 128
"""Answers whose exact likelihoods are compared for a question (reference: k_test of vqa.yaml)."""
TEMPLATES = ("a picture of a {}",)
"""Prompts for a class in zero-shot classification."""
STATEMENT_TOKENS = 60
"""Longest statement about a pair of images that is read, in tokens; the reference reads 40 words."""


def _answer_sampling() -> SamplingConfig:
    """The reference's models/blip_vqa.py: 3 beams, at most 10 tokens, of which [DEC] is one."""
    return SamplingConfig(strategy="beam", num_beams=3, min_new_tokens=0, max_new_tokens=9)


@dataclass(frozen=True, kw_only=True)
class AnswererOptions:
    """How `models.tasks.answerer.Answerer` answers questions."""

    k: Annotated[int, Ge(1)] = RANKED_ANSWERS
    """Candidates that are compared by their exact likelihood: those with the most probable first token."""
    sampling: SamplingConfig = field(default_factory=_answer_sampling)
    """Decoding of free answers."""
    batch_size: Annotated[int, Ge(1)] = BATCH_SIZE
    """Questions per forward pass; halved automatically when the device runs out of memory."""
    precision: Precision = "auto"
    """`auto`: bfloat16 on GPUs that support it, else float32."""


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How `models.tasks.pair_judge.PairJudge` judges pairs of images."""

    batch_size: Annotated[int, Ge(1)] = BATCH_SIZE
    """Pairs per forward pass; halved automatically when the device runs out of memory."""
    precision: Precision = "auto"
    """`auto`: bfloat16 on GPUs that support it, else float32."""


@dataclass(frozen=True, kw_only=True)
class DialogOptions:
    """How `models.tasks.dialog_ranker.DialogRanker` scores candidates."""

    batch_size: Annotated[int, Ge(1)] = BATCH_SIZE
    """Images per forward pass, and dialogs per forward pass; halved automatically when the device runs out of
    memory."""
    precision: Precision = "auto"
    """`auto`: bfloat16 on GPUs that support it, else float32."""


@dataclass(frozen=True, kw_only=True)
class CaptionerOptions:
    """How `models.tasks.captioner.Captioner` writes captions."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    prompt: str = "a picture of "
    """Text that the decoder continues (reference: configs/caption_coco.yaml); not part of the caption."""
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    """Decoding. Default: the paper's nucleus sampling with top_p 0.9."""
    batch_size: Annotated[int, Ge(1)] = BATCH_SIZE
    """Images per forward pass; halved automatically when the device runs out of memory."""
    precision: Precision = "auto"
    """`auto`: bfloat16 on GPUs that support it, else float32."""


@dataclass(frozen=True, kw_only=True)
class MatcherOptions:
    """How `models.tasks.matcher.Matcher` scores texts."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    itm_token: Literal["enc", "cls"] = "enc"
    """First token of a text for the ITM head: `enc` as in training, `cls` as in transformers and in the
    reference's blip_itm.py."""
    batch_size: Annotated[int, Ge(1)] = BATCH_SIZE
    """Images per forward pass, and texts per forward pass; halved automatically when the device runs out of
    memory."""
    precision: Precision = "auto"
    """`auto`: bfloat16 on GPUs that support it, else float32."""
