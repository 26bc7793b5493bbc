"""Images to texts: the captioner of CapFilt (BLIP paper, section 3.3)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from models.checkpoints import load_checkpoint
from models.generation import Prompt, generate
from models.images import normalise
from models.med import MED
from models.sampling import SamplingConfig, sequence_seed
from models.serving import Images, MicroBatches, Precision, as_pixels, put, serving_device
from models.tokenizer import Tokenizer

log = logging.getLogger(__name__)
