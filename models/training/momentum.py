"""What ITC remembers: a slowly moving copy of the unimodal encoders, and a queue of its recent features.

MoCo (arXiv 1911.05722) for image and text, as in ALBEF (arXiv 2107.07651) and BLIP (section 3.2).
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
    """The last `size` pairs, oldest overwritten first; any number of pairs can be pushed at once.

    Only what has been pushed is ever read: the reference starts with random features instead, which act as
    negatives until the first lap is done.
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
        """Everything held, in slot order: views, which the next `push` overwrites."""
        held = min(self.pushed, self.size)
        return Pairs(self.image[:held], self.text[:held], self.image_ids[:held], self.text_ids[:held])

    @torch.no_grad()
    def push(self, new: Pairs) -> None:
        """Add pairs, in order, over the oldest ones; of more than `size` only the last `size` stay."""
        count = new.image_BE.shape[0]
        kept = min(count, self.size)
        first = self.pushed + count - kept
        slots = (first + torch.arange(kept, device=self.image.device)) % self.size
        for buffer, values in zip((self.image, self.text, self.image_ids, self.text_ids), new, strict=True):
            buffer.index_copy_(0, slots, values[count - kept :].to(buffer.dtype))
        self.pushed += count

    def get_extra_state(self) -> dict[str, int]:
        """The count of pushed pairs, kept on the host so that no step waits for the device to learn it."""
        return {"pushed": self.pushed}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore what `get_extra_state` gave."""
        self.pushed = int(state["pushed"])


def make_teacher(med: MED) -> MED:
    """A frozen copy of the image encoder, the text encoder without cross-attention, and both projections.

    It starts equal to `med`. It is a MED of parts "filter" of which only `encode_image`, `image_feature` and
    `text_feature` work.
    """
    teacher = copy.deepcopy(med)
    teacher.config = replace(med.config, parts="filter")
    for name in ("text_decoder", "itm_head", "temp"):
        if hasattr(teacher, name):
            delattr(teacher, name)
    for layer in teacher.text_encoder.layers:
        del layer.crossattention  # ITC reads text alone; the reference carries these weights along unused
    return teacher.requires_grad_(False)


@torch.no_grad()
def move_teacher(teacher: MED, med: MED, momentum: float) -> None:
    """teacher = momentum * teacher + (1 - momentum) * med, for every parameter the teacher has."""
    student = dict(med.named_parameters(remove_duplicate=False))
    names, slow = zip(*teacher.named_parameters(), strict=True)
    torch._foreach_lerp_(list(slow), [student[name] for name in names], 1 - momentum)
