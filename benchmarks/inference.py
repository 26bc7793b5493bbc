"""Captioning and filtering, images per second: ours against transformers' BLIP on the same random weights.

    python -m benchmarks.inference --size base --image-size 384 --images 256 --batch-size 64

Both sides get the same uint8 pixels on the host and hand back texts or scores on the host; loading, decoding and
resizing pictures is nobody's part. The random language model is sharpened until its nucleus holds tens of tokens,
and its end token made likely enough that captions have about ten, both as on COCO. Transformers is used as its users do: one call per batch, each (image, text) pair a row of its
own, the ITM head alone; ours computes the ITC similarity too. Prints one line per task, and stores everything in
benchmarks/results/inference-<device>-<size>-<pixels>.json.
"""

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import BlipConfig, BlipForConditionalGeneration, BlipForImageTextRetrieval

from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.matcher import Matcher
from capfilt.models.training.throughput import peak_flops

RESULTS = Path(__file__).parent / "results"
CAPTION_TOKENS = 10
LOGIT_SPREAD = 4.0
BERT_ENTRIES = 30522


@dataclass(frozen=True, kw_only=True)
class Size:
    """Width, depth and heads of both towers."""

    vision: tuple[int, int, int]
    text: tuple[int, int, int]


SIZES = {
    "tiny": Size(vision=(64, 2, 4), text=(64, 2, 4)),
    "base": Size(vision=(768, 12, 12), text=(768, 12, 12)),
    "large": Size(vision=(1024, 24, 16), text=(768, 12, 12)),
}


def main() -> None:
    """Runs every task on both sides and stores the ratios."""
    options = parse()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        results = [run(task, options, Path(folder)) for task in options.tasks]
    report = {"options": vars(options), "machine": machine(options.device), "results": results}
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"inference-{options.device}-{options.size}-{options.image_size}.json"
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(f"stored in {target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target}")


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--image-size", type=int, default=384, help="pixels per side (paper: 384)")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--captions", type=int, default=1, help="sampled per image")
    parser.add_argument("--texts", type=int, default=2, help="judged per image: web and synthetic")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    options.precision = options.precision or ("bfloat16" if options.device == "cuda" else "float32")
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


# ---- the two sides


@dataclass(frozen=True, kw_only=True)
class Sides:
    """One task on both sides: functions that do all images, how far their results agree (0 to 1, or None where
    both draw at random), and what to know about our results."""

    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    agreement: Callable[[Any, Any], float] | None
    facts: Callable[[Any], dict[str, float]]


def run(task: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Times one task: warm-up of both sides, then turns, so that a slow minute of the machine hits both."""
    pixels = torch.randint(
        0, 256, (options.images, 3, options.image_size, options.image_size), dtype=torch.uint8
    )
    sides = TASKS[task](options, folder, pixels)
    with FlopCounterMode(display=False) as counter:
        ours = sides.ours()
    theirs = sides.theirs()
    seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
    for _ in range(options.repeats):
        seconds["ours"].append(timed(sides.ours, options.device))
        seconds["transformers"].append(timed(sides.theirs, options.device))
    rates = {side: options.images / statistics.median(values) for side, values in seconds.items()}
    result = {
        "task": task,
        "images_per_second": rates,
        "ratio": rates["ours"] / rates["transformers"],
        "seconds": seconds,
        "agreement": sides.agreement(ours, theirs) if sides.agreement else None,
        "facts": sides.facts(ours),
        "gflop_per_image": counter.get_total_flops() / options.images / 1e9,
    }
    peak = peak_flops(torch.device(options.device), options.precision == "bfloat16")
    if peak:
        result["mfu"] = {side: rate * result["gflop_per_image"] * 1e9 / peak for side, rate in rates.items()}
    print(line(result))
    return result


def caption(strategy: str) -> Callable[[argparse.Namespace, Path, Tensor], Sides]:
    """Captioning by sampling or beam search."""

    def sides(options: argparse.Namespace, folder: Path, pixels: Tensor) -> Sides:
        hf, tokenizer = build(BlipForConditionalGeneration, options, folder)
        sampled = strategy == "nucleus"
        n = options.captions if sampled else 1
        ours = Captioner.from_checkpoint(
            folder,
            device=options.device,
            precision=options.precision,
            sampling=SamplingConfig(strategy=strategy),
            batch_size=options.batch_size,
        )
        keys = [str(i) for i in range(len(pixels))]
        prompt = torch.cat([ours.prompt.ids, torch.tensor([tokenizer.sep_id])]).to(options.device)
        how = (
            {"do_sample": True, "top_p": 0.9, "top_k": 0, "num_return_sequences": n}
            if sampled
            else {"num_beams": 3}
        )

        def theirs() -> list[str]:
            texts = []
            for batch in pixels.split(options.batch_size):
                ready = normalize(batch, hf.dtype, options.device)
                ids = prompt.expand(len(batch), -1).clone()
                out = hf.generate(pixel_values=ready, input_ids=ids, max_length=20, min_length=5, **how)
                texts += tokenizer.decode_batch([row.tolist() for row in out])
            return texts

        return Sides(
            ours=lambda: [c.text for of_image in ours.caption(pixels, keys, n=n) for c in of_image],
            theirs=theirs,
            facts=lambda texts: {"tokens_per_caption": mean(len(text.split()) + 1 for text in texts)},
            agreement=None if sampled else same_texts,
        )

    return sides


def same_texts(ours: list[str], theirs: list[str]) -> float:
    """The share of captions that are equal; transformers' begin with the prompt."""
    return mean(y.removeprefix("a picture of").strip() == x for x, y in zip(ours, theirs, strict=True))


def judge(options: argparse.Namespace, folder: Path, pixels: Tensor) -> Sides:
    """Filtering: a few texts per image."""
    hf, tokenizer = build(BlipForImageTextRetrieval, options, folder)
    ours = Matcher.from_checkpoint(
        folder,
        device=options.device,
        precision=options.precision,
        itm_token="cls",  # transformers knows no other
        batch_size=options.batch_size,
    )
    lengths = torch.randint(5, 20, (len(pixels), options.texts)).tolist()
    texts = [
        [" ".join(f"w{(7 * i + k) % 500}" for k in range(n)) for n in of] for i, of in enumerate(lengths)
    ]

    def theirs() -> list[float]:
        probabilities: list[float] = []
        for start in range(0, len(pixels), options.batch_size):
            of_batch = texts[start : start + options.batch_size]
            ids, mask = tokenizer.encode([text for of in of_batch for text in of], 35)
            ready = normalize(pixels[start : start + options.batch_size], hf.dtype, options.device)
            logits = hf(
                input_ids=ids.to(options.device),
                attention_mask=mask.to(options.device),
                pixel_values=ready.repeat_interleave(options.texts, dim=0),
                use_itm_head=True,
            )[0]
            probabilities += logits.float().softmax(-1)[:, 1].tolist()
        return probabilities

    return Sides(
        ours=lambda: [score.itm_prob for of_image in ours.match(pixels, texts) for score in of_image],
        theirs=torch.inference_mode()(theirs),
        facts=lambda _: {"tokens_per_text": mean(n + 2 for of_image in lengths for n in of_image)},
        agreement=lambda a, b: mean(abs(x - y) < 0.02 for x, y in zip(a, b, strict=True)),
    )


TASKS: dict[str, Callable[[argparse.Namespace, Path, Tensor], Sides]] = {
    "caption-nucleus": caption("nucleus"),
    "caption-beam": caption("beam"),
    "filter": judge,
}


def build(kind: Any, options: argparse.Namespace, folder: Path) -> tuple[Any, Tokenizer]:
    """transformers' model with random weights, saved to `folder` with a made-up vocabulary of BERT's size."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"]
    words += [f"w{i}" for i in range(BERT_ENTRIES - len(words))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = Tokenizer.from_folder(folder)
    model = kind(config_of(SIZES[options.size], options.image_size, tokenizer))
    if kind is BlipForConditionalGeneration:
        sharpen(model.text_decoder, tokenizer.sep_id)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model.to(options.device, getattr(torch, options.precision)).eval(), tokenizer


@torch.no_grad()
def sharpen(decoder: Any, end_id: int) -> None:
    """Scales random logits to a spread of LOGIT_SPREAD, and gives the end its share of their total."""
    head, words = decoder.cls.predictions, decoder.bert.embeddings.word_embeddings.weight
    head.transform.LayerNorm.weight.fill_(
        LOGIT_SPREAD / (0.02 * words.shape[1] ** 0.5)
    )  # 0.02: words' own spread
    words[end_id] = 0  # so that its logit is its bias, whatever the image
    log_total = math.log(BERT_ENTRIES) + LOGIT_SPREAD**2 / 2  # of exponentials of a normal distribution
    head.bias[end_id] = log_total - math.log(CAPTION_TOKENS)


def config_of(size: Size, image_size: int, tokenizer: Tokenizer) -> BlipConfig:
    """BLIP's configuration at a size (transformers' own defaults differ from BLIP's in eps and heads)."""

    def tower(width: int, depth: int, heads: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
        }

    text = tower(*size.text) | {
        "vocab_size": tokenizer.vocab_size,
        "encoder_hidden_size": size.vision[0],
        "bos_token_id": tokenizer.dec_id,
        "sep_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }
    vision = tower(*size.vision) | {
        "image_size": image_size,
        "layer_norm_eps": 1e-6,
        "initializer_range": 0.02,
    }
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=256)


# ---- measuring


def timed(function: Callable[[], Any], device: str) -> float:
    """Seconds of one call, the device's queue included."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def mean(values: Any) -> float:
    """Arithmetic mean of an iterable."""
    return statistics.fmean(float(value) for value in values)


def machine(device: str) -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "size": {name: asdict(size) for name, size in SIZES.items()},
    }


def line(result: dict[str, Any]) -> str:
    """One task's outcome for people."""
    rates = result["images_per_second"]
    text = (
        f"{result['task']:16} ours {rates['ours']:9.2f} images/s   transformers {rates['transformers']:9.2f}"
        f"   ratio {result['ratio']:5.2f}"
    )
    if "mfu" in result:
        text += f"   MFU {result['mfu']['ours']:.1%} against {result['mfu']['transformers']:.1%}"
    return text if result["agreement"] is None else f"{text}   agreement {result['agreement']:.3f}"


if __name__ == "__main__":
    main()
