"""A tiny MED, a batch, and BLIP's losses as plain loops, for comparison with the objective."""

import math

import torch
from torch import Tensor

from capfilt.models.config import MedConfig, ObjectiveConfig, TextConfig, VisionConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer

TEXTS = (
    "a red circle next to a blue square",
    "two dogs on a beach",
    "a red circle next to a blue square",  # the text of the first pair
    "free shipping on all orders",
    "a cat",
    "the green star",
)
IMAGE_IDS = (10, 11, 12, 13, 13, 15)  # the fourth and the fifth pair have the same image


def make_tokenizer() -> Tokenizer:
    return Tokenizer.train([*TEXTS, "a picture of"], vocab_size=200)


def make_med(
    tokenizer: Tokenizer, parts: str = "pretrain", sharing: str = "all_but_sa", seed: int = 0
) -> MED:
    torch.manual_seed(seed)
    vision = VisionConfig(image_size=32, patch_size=16, width=24, depth=1, heads=2)
    text = TextConfig(
        vocab_size=tokenizer.vocab_size, width=16, depth=2, heads=2, ffn=32, max_positions=40, dropout=0.0
    )
    med = MED(MedConfig(vision=vision, text=text, embed_dim=8, parts=parts, sharing=sharing))
    with torch.no_grad():  # with the initial std of 0.02 all outputs are similar and errors would not show
        for name, parameter in med.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.25)
            elif name.endswith("bias"):
                parameter.normal_(std=0.1)
    return med


def make_batch(texts: tuple[str, ...] = TEXTS, ids: tuple[int, ...] = IMAGE_IDS, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (len(texts), 3, 32, 32), generator=generator, dtype=torch.uint8)
    return {"pixels": pixels, "texts": list(texts), "image_ids": torch.tensor(ids)}


def loop_contrast(queries: Tensor, others: Tensor, targets: list[list[float]], temperature: float) -> float:
    """Mean over rows of -sum_j target_j log softmax_j(query . other / temperature)."""
    total = 0.0
    for i, row in enumerate(targets):
        logits = [
            sum(float(a) * float(b) for a, b in zip(queries[i], others[j], strict=True)) / temperature
            for j in range(len(others))
        ]
        log_sum = math.log(math.fsum(math.exp(x - max(logits)) for x in logits)) + max(logits)
        total -= math.fsum(t * (x - log_sum) for t, x in zip(row, logits, strict=True))
    return total / len(targets)


def loop_targets(
    own: list[tuple[int, str]],
    candidates: list[tuple[int, str]],
    teacher: tuple[Tensor, Tensor] | None = None,
    alpha: float = 0.0,
    temperature: float = 1.0,
) -> list[list[float]]:
    """(1 - alpha) * evenly distributed positives + alpha * softmax of the teacher's similarities.

    Pairs are (image id, text); the first candidates are the own pairs.
    """
    rows = []
    for i, (image, text) in enumerate(own):
        hits = [
            float(j == i or image == other_image or text == other_text)
            for j, (other_image, other_text) in enumerate(candidates)
        ]
        row = [hit / sum(hits) for hit in hits]
        if teacher is not None:
            queries, others = teacher
            logits = [float(queries[i].double() @ other.double()) / temperature for other in others]
            weights = [math.exp(x - max(logits)) for x in logits]
            row = [
                (1 - alpha) * hard + alpha * weight / sum(weights)
                for hard, weight in zip(row, weights, strict=True)
            ]
        rows.append(row)
    return rows


def loop_cross_entropy(logits: list[float], label: int, smoothing: float = 0.0) -> float:
    """-log softmax of the label, mixed with the mean over all classes by `smoothing`."""
    log_sum = math.log(math.fsum(math.exp(x - max(logits)) for x in logits)) + max(logits)
    spread = math.fsum(log_sum - x for x in logits) / len(logits)
    return (1 - smoothing) * (log_sum - logits[label]) + smoothing * spread


def in_batch(**changes: object) -> ObjectiveConfig:
    return ObjectiveConfig(**{"queue_size": 0, "alpha": 0.0, **changes})


class MatchSpy:
    """Records the texts that ITM scores, and the image of each."""

    def __init__(self, med: MED) -> None:
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.inner = med.match
        med.match = self  # type: ignore[method-assign]

    def __call__(self, ids: Tensor, mask: Tensor, kv: list, image_index: Tensor) -> Tensor:
        self.calls.append((ids, mask, image_index))
        return self.inner(ids, mask, kv, image_index)
