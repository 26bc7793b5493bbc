"""What a command asks of a model. Imports nothing that takes time, because every command line reads it."""

from __future__ import annotations

from dataclasses import dataclass

from capfilt.models.config import Precision

CHECKPOINT_VARIABLE = "CAPFILT_CHECKPOINT"
"""Environment variable with the checkpoint of commands that are given none."""


@dataclass(frozen=True)
class ModelRequest:
    """The model that the user asks for."""

    checkpoint: str | None
    tokenizer: str | None = None
    image_size: int | None = None
    device: str = "auto"
    precision: Precision = "auto"
    batch_size: int | None = None
