"""The memory of ITC: a momentum copy of the unimodal encoders, and a queue of its recent features.

MoCo (arXiv 1911.05722) for images and texts, as in ALBEF (arXiv 2107.07651) and BLIP (section 3.2).
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from capfilt.models.network.med import MED
from capfilt.models.training.contrast import Pairs


class PairQueue(nn.Module):
    """The last `size` pairs. The oldest are overwritten first; any number of pairs can be pushed at a time.

    An unfilled queue returns only the pairs pushed so far. The reference fills the queue with random features
    at the start, which act as negatives until they are overwritten.
    """

    def __init__(self, size: int, embed_dim: int) -> None:
        super().__init__()
        self.size = size
        self.pushed = 0
        self.image: Tensor
        self.text: Tensor
        self.image_ids: Tensor
        self.text_ids: Tensor
        self.register_buffer("image", torch.zeros(size, embed_dim))
        self.register_buffer("text", torch.zeros(size, embed_dim))
        self.register_buffer("image_ids", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("text_ids", torch.zeros(size, dtype=torch.int64))

    def read(self) -> Pairs:
        """All pairs in the queue, in slot order, as views that the next `push` overwrites."""
        count = min(self.pushed, self.size)
        return Pairs(self.image[:count], self.text[:count], self.image_ids[:count], self.text_ids[:count])

    @torch.no_grad()
    def push(self, new: Pairs) -> None:
        """Add pairs in order, overwriting the oldest; of more than `size` pairs only the last `size` are
        kept."""
        count = new.image_BE.shape[0]
        kept = min(count, self.size)
        first = self.pushed + count - kept
        slots = (first + torch.arange(kept, device=self.image.device)) % self.size
        for buffer, values in zip((self.image, self.text, self.image_ids, self.text_ids), new, strict=True):
            buffer.index_copy_(0, slots, values[count - kept :].to(buffer.dtype))
        self.pushed += count

    def get_extra_state(self) -> dict[str, int]:
        """The number of pushed pairs, which is on the host so that no step has to wait for the device."""
        return {"pushed": self.pushed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the result of `get_extra_state`."""
        self.pushed = int(state["pushed"])


def make_teacher(med: MED) -> MED:
    """A frozen copy of image encoder, text encoder without cross-attention, and both ITC projections.

    The result is a MED with parts "filter", of which only `encode_image`, `image_feature` and `text_feature`
    work.
    """
    teacher = copy.deepcopy(med)
    teacher.config = replace(med.config, parts="filter")
    for name in ("text_decoder", "itm_head", "temp"):
        if hasattr(teacher, name):
            delattr(teacher, name)
    for layer in teacher.text_encoder.layers:
        del layer.crossattention  # unused by ITC, but kept in the reference
    return teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(teacher: MED, med: MED, momentum: float) -> None:
    """Set every parameter of the teacher to momentum * teacher + (1 - momentum) * med."""
    student = dict(med.named_parameters(remove_duplicate=False))
    names, parameters = zip(*teacher.named_parameters(), strict=True)
    torch._foreach_lerp_(list(parameters), [student[name] for name in names], 1 - momentum)
