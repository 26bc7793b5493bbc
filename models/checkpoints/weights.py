"""Common parts of the foreign checkpoint formats: salesforce/BLIP, LAVIS and transformers.

MED has the tensor names of salesforce/BLIP 056a169. LAVIS 506965b writes the same names; transformers renames
only the image encoder.
"""

import re
from dataclasses import dataclass, field

from torch import Tensor

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.config import MedConfig

CONFIG_KEY = (
    "capfilt"  # foreign checkpoints that we write keep our config under this key, to be read back exactly
)
# Momentum copies, queues and index buffers are state of BLIP's training, not of the model.
TRAINING_STATE = re.compile(
    r"^\w+_m\.|^(image_queue|text_queue|idx_queue|queue_ptr|ptr_queue)$|\.position_ids$"
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Contents of a checkpoint of any format."""

    config: MedConfig
    """Config of the stored model; `parts` are the parts in the file."""
    tensors: dict[str, Tensor]
    """Tensors by MED's names."""
    special_ids: dict[str, int] = field(default_factory=dict)
    """Ids of special tokens ("dec", "sep", …) that the file states; its tokenizer must have the same."""
    notes: list[str] = field(default_factory=list)
    """Missing or unsupported values of the file and their replacements, for the log."""


def reject_conv_stem(config: MedConfig) -> None:
    """Raise CheckpointError for the conv stem, which foreign formats cannot represent."""
    if config.vision.stem != "patch":
        raise CheckpointError(
            f'vision.stem is "{config.vision.stem}": BLIP and transformers support only "patch"'
        )
