"""What BLIP's weights as others store them have in common, whether salesforce's .pth or transformers' folders.

MED's names are those of salesforce/BLIP 056a169; LAVIS 506965b writes the same, and transformers renames the
image encoder only.
"""

import re
from dataclasses import dataclass, field

from torch import Tensor

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.config import MedConfig

OURS = "capfilt"  # where we leave our own config in others' files, so that nothing is lost on the way back
# Momentum copies, queues and index buffers: state of BLIP's training, no part of the model.
TRAINING_STATE = re.compile(
    r"^\w+_m\.|^(image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$|\.position_ids$"
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a checkpoint holds, whoever wrote it."""

    config: MedConfig
    """Its `parts` are what the file holds."""
    tensors: dict[str, Tensor]
    """Under MED's names."""
    notes: list[str] = field(default_factory=list)
    """What the file lacks or says wrongly, and what is used instead."""


def refuse_conv_stem(config: MedConfig) -> None:
    """CheckpointError for an image encoder that only we have."""
    if config.vision.stem != "patch":
        raise CheckpointError(
            f'vision.stem is "{config.vision.stem}": BLIP and transformers know only "patch"'
        )
