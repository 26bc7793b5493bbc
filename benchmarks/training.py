"""Seconds of a pretraining step (ITC + ITM + LM, AdamW), with shared and with repeated image keys and values.

    python -m benchmarks.training --size base --batch-size 8 --steps 5

"shared" is the training of capfilt: the cross-attention keys and values of an image are computed once for its
ITM texts, its negatives and the decoder. "per text" is the same model used like the reference code: keys and
values are computed for every text that attends to the image. Both variants run alternately on the same
weights and batches, and their gradients are compared. Prints one line per variant and stores all results in
benchmarks/results/training-<device>-<size>-<pixels>.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.parts.results import describe_machine, store_report
from capfilt.models.config import MedConfig, ObjectiveConfig, OptimizerConfig, TextConfig, VisionConfig
from capfilt.models.network.attention import CrossKV, DecoderCache, ImageRows
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.training.objectives import Objective, PairBatch
from capfilt.models.training.optimizer import build_optimizer, set_learning_rate
from capfilt.models.training.throughput import peak_flops, training_flops

BERT_ENTRIES = 30522
WORDS_PER_TEXT = (5, 15)  # the mean length is about 20 tokens in CC12M, 11 in COCO
SIZES = {
    "tiny": (
        VisionConfig(image_size=32, width=64, depth=2, heads=4),
        TextConfig(width=64, depth=2, heads=4, ffn=256),
    ),
    "base": (VisionConfig(), TextConfig()),
    "large": (VisionConfig(width=1024, depth=24, heads=16, drop_path=0.0), TextConfig()),
}


class ImageStates(list[tuple[Tensor, Tensor]]):
    """Image states in place of keys and values, which are computed later."""

    def __init__(self, states_BNW: Tensor) -> None:
        super().__init__([(states_BNW, states_BNW)])
        self.states_BNW = states_BNW


class PerTextMED(MED):
    """A MED that computes the keys and values of the image for every text, like the reference code."""

    shares_cross_kv = False  # type: ignore[assignment]

    def cross_kv(self, image_states: Tensor, which: Any) -> CrossKV:
        return ImageStates(image_states)

    def match(
        self,
        ids: Tensor,
        mask: Tensor | None,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        assert isinstance(cross_kv, ImageStates) and isinstance(image_index, Tensor)
        return super().match(ids, mask, super().cross_kv(cross_kv.states_BNW[image_index], "encoder"))

    def decode_states(
        self,
        ids: Tensor,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        assert isinstance(cross_kv, ImageStates) and image_index is None
        return super().decode_states(ids, super().cross_kv(cross_kv.states_BNW, "decoder"), None, mask, cache)


def main() -> None:
    """Measure both variants and store the ratio."""
    options = parse_options()
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    med, image_size = make_med(options.size, options.image_size, tokenizer)
    per_text = copy.deepcopy(med)
    per_text.__class__ = PerTextMED
    batches = [make_batch(options.batch_size, image_size, seed) for seed in range(options.steps + 1)]
    variants = {"shared": Variant(med, tokenizer, options), "per text": Variant(per_text, tokenizer, options)}
    agreement = compare_gradients(variants, batches[0])
    for variant in variants.values():
        variant.step(batches[0])  # warm-up
    for batch in batches[1:]:
        for variant in variants.values():
            variant.seconds.append(variant.step(batch))
    results = {name: variant.result() for name, variant in variants.items()}
    ratio = results["per text"]["step_seconds"] / results["shared"]["step_seconds"]
    report = {
        "options": vars(options),
        "pixels": image_size,
        "machine": describe_machine(options.device),
        "results": results,
        "ratio": ratio,
        "agreement": agreement,
    }
    for name, result in results.items():
        print(format_line(name, result))
    print(f"shared keys and values: {ratio:.2f} x; largest relative difference of a gradient {agreement:.1e}")
    store_report(f"training-{options.device}-{options.size}-{image_size}", report)
    print(json.dumps({"ratio": ratio, "agreement": agreement, "results": results}))


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--image-size", type=int, help="pixels per side (default: that of --size)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    options = parser.parse_args()
    options.precision = options.precision or ("bfloat16" if options.device == "cuda" else "float32")
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def make_med(size: str, image_size: int | None, tokenizer: Tokenizer) -> tuple[MED, int]:
    """A model with random weights and without dropout, and its image size."""
    vision, text = SIZES[size]
    if image_size:
        vision = VisionConfig(**{**vars(vision), "image_size": image_size})
    text = TextConfig(**{**vars(text), "vocab_size": tokenizer.vocab_size, "dropout": 0.0})
    return MED(MedConfig(vision=vision, text=text)), vision.image_size


class Variant:
    """A variant with its optimizer and its measurements."""

    def __init__(self, med: MED, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.objective = Objective(med, tokenizer, ObjectiveConfig()).to(self.device).train()
        self.optimizer = build_optimizer(med, OptimizerConfig())
        set_learning_rate(self.optimizer, 1e-6)
        self.seconds: list[float] = []
        self.flops = 0

    def step(self, batch: PairBatch) -> float:
        """Run a step; returns its seconds, including queued work of the device."""
        if not self.flops:
            with self.autocast():
                self.flops = training_flops(self.objective, batch)
        self.synchronize()
        start = time.perf_counter()
        self.compute_gradients(batch)
        self.optimizer.step()
        self.objective.update_momentum()
        self.synchronize()
        return time.perf_counter() - start

    def compute_gradients(self, batch: PairBatch) -> None:
        """Forward and backward pass."""
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.objective(batch, epoch=1.0)["loss"]
        loss.backward()

    def autocast(self) -> torch.autocast:
        """The autocast context of the chosen precision."""
        bfloat16 = self.options.precision == "bfloat16"
        return torch.autocast(self.options.device, dtype=torch.bfloat16, enabled=bfloat16)

    def synchronize(self) -> None:
        """Wait for queued work of the device."""
        if self.options.device == "cuda":
            torch.cuda.synchronize()

    def result(self) -> dict[str, Any]:
        """The measurements."""
        median = statistics.median(self.seconds)
        found = {
            "step_seconds": median,
            "samples_per_second": self.options.batch_size / median,
            "seconds": self.seconds,
            "gflop_per_sample": self.flops / self.options.batch_size / 1e9,
        }
        peak = peak_flops(self.device, self.options.precision == "bfloat16")
        return found | ({"mfu": self.flops / median / peak} if peak else {})


def compare_gradients(variants: dict[str, Variant], batch: PairBatch) -> float:
    """Largest difference of a gradient between the variants, relative to the largest entry of that
    gradient."""
    for variant in variants.values():
        variant.compute_gradients(batch)
    worst = 0.0
    shared, per_text = (dict(variant.objective.med.named_parameters()) for variant in variants.values())
    for name, parameter in shared.items():
        if parameter.grad is not None:
            other = per_text[name].grad
            assert other is not None, name
            scale = parameter.grad.abs().max().clamp_min(1e-6)
            worst = max(worst, float((parameter.grad - other).abs().max() / scale))
    return worst


def make_tokenizer() -> Tokenizer:
    """A tokenizer with a synthetic vocabulary of BERT's size."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{i}" for i in range(BERT_ENTRIES - len(words))]
    backend = Backend(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return Tokenizer(backend)


def make_batch(size: int, pixels: int, seed: int) -> PairBatch:
    """Random images, and texts of random words."""
    generator = torch.Generator().manual_seed(seed)
    low, high = WORDS_PER_TEXT
    lengths = torch.randint(low, high, (size,), generator=generator).tolist()
    texts = [
        " ".join(f"w{int(w)}" for w in torch.randint(0, 20_000, (n,), generator=generator)) for n in lengths
    ]
    images = torch.randint(0, 256, (size, 3, pixels, pixels), generator=generator, dtype=torch.uint8)
    return {"pixels": images, "texts": texts, "image_ids": torch.arange(size)}


def format_line(name: str, result: dict[str, Any]) -> str:
    """The result of a variant as one line."""
    mfu = f"   MFU {result['mfu']:.1%}" if "mfu" in result else ""
    return (
        f"{name:9} {result['step_seconds']:8.3f} s/step   {result['samples_per_second']:8.2f} samples/s   "
        f"{result['gflop_per_sample']:8.1f} GFLOP/sample{mfu}"
    )


if __name__ == "__main__":
    main()
