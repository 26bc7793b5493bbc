"""One pretraining step (ITC + ITM + LM, AdamW): seconds, samples per second, with and without shared image keys.

    python -m benchmarks.training --size base --batch-size 8 --steps 5

"shared" is the trainer as it is: each image's cross-attention keys and values are made once and read by its ITM texts,
its negatives and the decoder. "per text" is the same model used as the reference code uses it: keys and values are
made anew for every text that looks at the image. Both run on the same weights and batches, taking turns, and their
losses and gradients are compared. Prints a line per variant, and stores everything in
benchmarks/results/training-<device>-<size>-<pixels>.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from capfilt.models.config import MedConfig, ObjectiveConfig, OptimizerConfig, TextConfig, VisionConfig
from capfilt.models.network.attention import CrossKV, DecoderCache, ImageRows
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.training.objectives import Objective, PairBatch
from capfilt.models.training.optimizer import build_optimizer, set_learning_rate
from capfilt.models.training.throughput import peak_flops, training_flops

RESULTS = Path(__file__).parent / "results"
BERT_ENTRIES = 30522
WORDS_PER_TEXT = (5, 15)  # web texts: CC12M's mean is about 20 tokens, COCO's 11
SIZES = {
    "tiny": (
        VisionConfig(image_size=32, width=64, depth=2, heads=4),
        TextConfig(width=64, depth=2, heads=4, ffn=256),
    ),
    "base": (VisionConfig(), TextConfig()),
    "large": (VisionConfig(width=1024, depth=24, heads=16, drop_path=0.0), TextConfig()),
}


class States(list[tuple[Tensor, Tensor]]):
    """Image states in the place of keys and values that nobody has made yet."""

    def __init__(self, states_BNW: Tensor) -> None:
        super().__init__([(states_BNW, states_BNW)])
        self.states_BNW = states_BNW


class PerTextMED(MED):
    """A MED that makes keys and values of the image for every text, as the reference code does."""

    shares_cross_kv = False  # type: ignore[assignment]

    def cross_kv(self, image_states: Tensor, which: Any) -> CrossKV:
        return States(image_states)

    def match(
        self,
        ids: Tensor,
        mask: Tensor | None,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
    ) -> Tensor:
        assert isinstance(cross_kv, States) and isinstance(image_index, Tensor)
        return super().match(ids, mask, super().cross_kv(cross_kv.states_BNW[image_index], "encoder"))

    def decode_states(
        self,
        ids: Tensor,
        cross_kv: CrossKV,
        image_index: Tensor | ImageRows | None = None,
        mask: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        assert isinstance(cross_kv, States) and image_index is None
        return super().decode_states(ids, super().cross_kv(cross_kv.states_BNW, "decoder"), None, mask, cache)


def main() -> None:
    """Measures both variants and stores the ratio."""
    options = parse()
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    vision, text = SIZES[options.size]
    if options.image_size:
        vision = VisionConfig(**{**vars(vision), "image_size": options.image_size})
    text = TextConfig(**{**vars(text), "vocab_size": tokenizer.vocab_size, "dropout": 0.0})
    med = MED(MedConfig(vision=vision, text=text))
    per_text = copy.deepcopy(med)
    per_text.__class__ = PerTextMED
    batches = [make_batch(options.batch_size, vision.image_size, seed) for seed in range(options.steps + 1)]
    sides = {"shared": Side(med, tokenizer, options), "per text": Side(per_text, tokenizer, options)}
    agreement = compare(sides, batches[0])
    for side in sides.values():
        side.step(batches[0])  # warm-up
    for batch in batches[1:]:
        for side in sides.values():
            side.seconds.append(side.step(batch))
    results = {name: side.result() for name, side in sides.items()}
    ratio = results["per text"]["step_seconds"] / results["shared"]["step_seconds"]
    report = {
        "options": vars(options),
        "pixels": vision.image_size,
        "machine": machine(options.device),
        "results": results,
        "ratio": ratio,
        "agreement": agreement,
    }
    for name, result in results.items():
        print(line(name, result))
    print(f"shared keys and values: {ratio:.2f} x; largest relative difference of a gradient {agreement:.1e}")
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"training-{options.device}-{options.size}-{vision.image_size}.json"
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(f"stored in {target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--image-size", type=int, help="pixels per side (default: the size's own)")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    options = parser.parse_args()
    options.precision = options.precision or ("bfloat16" if options.device == "cuda" else "float32")
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


class Side:
    """One variant with its optimizer and what was measured on it."""

    def __init__(self, med: MED, tokenizer: Tokenizer, options: argparse.Namespace) -> None:
        self.options, self.device = options, torch.device(options.device)
        self.objective = Objective(med, tokenizer, ObjectiveConfig()).to(self.device).train()
        self.optimizer = build_optimizer(med, OptimizerConfig())
        set_learning_rate(self.optimizer, 1e-6)
        self.seconds: list[float] = []
        self.flops = 0

    def step(self, batch: PairBatch) -> float:
        """Seconds of one whole step, the device's queue included."""
        if not self.flops:
            with self.autocast():
                self.flops = training_flops(self.objective, batch)
        self.wait()
        start = time.perf_counter()
        self.gradients(batch)
        self.optimizer.step()
        self.objective.update_momentum()
        self.wait()
        return time.perf_counter() - start

    def gradients(self, batch: PairBatch) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.autocast():
            loss = self.objective(batch, epoch=1.0)["loss"]
        loss.backward()

    def autocast(self) -> torch.autocast:
        bfloat16 = self.options.precision == "bfloat16"
        return torch.autocast(self.options.device, dtype=torch.bfloat16, enabled=bfloat16)

    def wait(self) -> None:
        if self.options.device == "cuda":
            torch.cuda.synchronize()

    def result(self) -> dict[str, Any]:
        """What was measured."""
        median = statistics.median(self.seconds)
        found = {
            "step_seconds": median,
            "samples_per_second": self.options.batch_size / median,
            "seconds": self.seconds,
            "gflop_per_sample": self.flops / self.options.batch_size / 1e9,
        }
        peak = peak_flops(self.device, self.options.precision == "bfloat16")
        return found | ({"mfu": self.flops / median / peak} if peak else {})


def compare(sides: dict[str, Side], batch: PairBatch) -> float:
    """Largest difference of a parameter's gradient between both variants, relative to its largest entry."""
    for side in sides.values():
        side.gradients(batch)
    worst = 0.0
    shared, per_text = (dict(side.objective.med.named_parameters()) for side in sides.values())
    for name, parameter in shared.items():
        if parameter.grad is not None:
            other = per_text[name].grad
            assert other is not None, name
            scale = parameter.grad.abs().max().clamp_min(1e-6)
            worst = max(worst, float((parameter.grad - other).abs().max() / scale))
    return worst


def make_tokenizer() -> Tokenizer:
    """A made-up vocabulary of BERT's size."""
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words += [f"w{i}" for i in range(BERT_ENTRIES - len(words))]
    backend = Backend(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return Tokenizer(backend)


def make_batch(size: int, pixels: int, seed: int) -> PairBatch:
    """Random pictures and texts of made-up words."""
    generator = torch.Generator().manual_seed(seed)
    low, high = WORDS_PER_TEXT
    lengths = torch.randint(low, high, (size,), generator=generator).tolist()
    texts = [
        " ".join(f"w{int(w)}" for w in torch.randint(0, 20_000, (n,), generator=generator)) for n in lengths
    ]
    images = torch.randint(0, 256, (size, 3, pixels, pixels), generator=generator, dtype=torch.uint8)
    return {"pixels": images, "texts": texts, "image_ids": torch.arange(size)}


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def line(name: str, result: dict[str, Any]) -> str:
    """One variant's outcome for people."""
    mfu = f"   MFU {result['mfu']:.1%}" if "mfu" in result else ""
    return (
        f"{name:9} {result['step_seconds']:8.3f} s/step   {result['samples_per_second']:8.2f} samples/s   "
        f"{result['gflop_per_sample']:8.1f} GFLOP/sample{mfu}"
    )


if __name__ == "__main__":
    main()
