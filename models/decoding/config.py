"""Configuration of decoding. The defaults are those of the BLIP paper. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How tokens are chosen. Lengths count new tokens: [SEP] is included, the prompt is not."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    strategy: Literal["nucleus", "beam", "greedy"] = "nucleus"
    """The paper uses nucleus sampling for CapFilt (Table 2) and beam search with 3 beams for caption
    benchmarks."""
    top_p: Annotated[float, Gt(0), Le(1)] = 0.9
    """Nucleus only: probability mass of the nucleus; 1 keeps every token. Paper: 0.9."""
    top_k: Annotated[int, Ge(0)] = 0
    """Nucleus only: number of most probable tokens kept before `top_p` applies; 0 disables it. The reference
    code applied 50, a default of transformers."""
    temperature: Annotated[float, Gt(0)] = 1.0
    """Nucleus only: divisor of the logits. Paper: 1."""
    repetition_penalty: Annotated[float, Gt(0)] = 1.0
    """Values above 1 make repeated tokens less likely; 1 disables it. The reference code used 1.1 when
    sampling."""
    penalty_scope: Literal["generated", "all"] = "generated"
    """Tokens that count as repeated: only generated ones, or the prompt's too (reference code)."""
    min_new_tokens: Annotated[int, Ge(0)] = 1
    """Minimum new tokens before [SEP]. 1 is the reference's min_length 5 minus its 4 prompt tokens."""
    max_new_tokens: Annotated[int, Ge(1)] = 16
    """Maximum new tokens. 16 is the reference's max_length 20 minus its 4 prompt tokens."""
    num_beams: Annotated[int, Ge(2)] = 3
    """Beam only: number of beams per image. Paper: 3. For a single beam use `greedy`."""

    def __post_init__(self) -> None:
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: it must be in (0, 1], where 1 keeps every token")
        if self.top_k < 0:
            raise ValueError(
                f"top_k is {self.top_k}: it must be 0 (disabled) or the number of tokens to keep"
            )
        if self.temperature <= 0 or self.repetition_penalty <= 0:
            raise ValueError(
                f"temperature is {self.temperature} and repetition_penalty is {self.repetition_penalty}: "
                "both must be above 0 (use strategy 'greedy' for the most probable token)"
            )
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens} and max_new_tokens is {self.max_new_tokens}: "
                "0 <= min_new_tokens <= max_new_tokens and max_new_tokens >= 1 must hold"
            )
        if self.num_beams < 2:
            raise ValueError(
                f"num_beams is {self.num_beams}: it must be at least 2 (for 1 use strategy 'greedy')"
            )

    @classmethod
    def reference(cls) -> SamplingConfig:
        """The settings of BLIP's released code for nucleus sampling with top_p 0.9."""
        return cls(top_k=50, repetition_penalty=1.1, penalty_scope="all")
