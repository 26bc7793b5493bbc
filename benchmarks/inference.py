"""Images per second of captioning and filtering: capfilt against the BLIP of transformers with the same
weights.

    python -m benchmarks.inference --size base --image-size 384 --images 256 --batch-size 64

Both sides get the same uint8 pixels on the host and return texts or scores on the host; loading, decoding and
resizing of images are excluded. The weights are random. The logits of the language model are scaled so that
the nucleus has tens of tokens, and its end token is made likely enough that captions have about ten tokens,
as on COCO. transformers is used as is common: one call per batch, with one row for each (image, text) pair
and only the ITM head; capfilt computes the ITC similarity too. Prints one line per task and stores all
results in benchmarks/results/inference-<device>-<size>-<pixels>.json.
"""

import argparse
import math
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

from benchmarks.model_results import describe_machine, store_report
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.matcher import Matcher
from capfilt.models.tasks.options import MAX_TOKENS, CaptionerOptions, MatcherOptions
from capfilt.models.training.throughput import peak_flops

CAPTION_TOKENS = 10
LOGIT_STD = 4.0
INIT_STD = 0.02  # of the word embeddings of transformers
BERT_ENTRIES = 30522


@dataclass(frozen=True, kw_only=True)
class Size:
    """Width, depth and heads of image encoder and text transformer."""

    vision: tuple[int, int, int]
    text: tuple[int, int, int]


SIZES = {
    "tiny": Size(vision=(64, 2, 4), text=(64, 2, 4)),
    "base": Size(vision=(768, 12, 12), text=(768, 12, 12)),
    "large": Size(vision=(1024, 24, 16), text=(768, 12, 12)),
}


def main() -> None:
    """Measure every task on both sides and store the ratios."""
    options = parse_options()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        results = [measure(task, options, Path(folder)) for task in options.tasks]
    machine = describe_machine(options.device) | {
        "transformers": transformers.__version__,
        "size": {name: asdict(size) for name, size in SIZES.items()},
    }
    report = {"options": vars(options), "machine": machine, "results": results}
    store_report(f"inference-{options.device}-{options.size}-{options.image_size}", report)


def parse_options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="base")
    parser.add_argument("--image-size", type=int, default=384, help="pixels per side (paper: 384)")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--captions", type=int, default=1, help="captions sampled per image")
    parser.add_argument("--texts", type=int, default=2, help="texts scored per image (web and synthetic)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    options = parser.parse_args()
    options.precision = options.precision or ("bfloat16" if options.device == "cuda" else "float32")
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


# ---- tasks


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One task on both sides."""

    ours: Callable[[], Any]
    """Processes all images with capfilt."""
    theirs: Callable[[], Any]
    """Processes all images with transformers."""
    agreement: Callable[[Any, Any], float] | None
    """Agreement of both results, 0 to 1; None if both sides sample randomly."""
    facts: Callable[[Any], dict[str, float]]
    """Properties of our results."""


def measure(task: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure a task: a warm-up of both sides, then alternating runs, so that both suffer equally from other
    load."""
    pixels = torch.randint(
        0, 256, (options.images, 3, options.image_size, options.image_size), dtype=torch.uint8
    )
    comparison = TASKS[task](options, folder, pixels)
    with FlopCounterMode(display=False) as counter:
        ours = comparison.ours()
    theirs = comparison.theirs()
    seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
    for _ in range(options.repeats):
        seconds["ours"].append(seconds_of(comparison.ours, options.device))
        seconds["transformers"].append(seconds_of(comparison.theirs, options.device))
    rates = {side: options.images / statistics.median(values) for side, values in seconds.items()}
    result = {
        "task": task,
        "images_per_second": rates,
        "ratio": rates["ours"] / rates["transformers"],
        "seconds": seconds,
        "agreement": comparison.agreement(ours, theirs) if comparison.agreement else None,
        "facts": comparison.facts(ours),
        "gflop_per_image": counter.get_total_flops() / options.images / 1e9,
    }
    peak = peak_flops(torch.device(options.device), options.precision == "bfloat16")
    if peak:
        result["mfu"] = {side: rate * result["gflop_per_image"] * 1e9 / peak for side, rate in rates.items()}
    print(format_line(result))
    return result


def captioning(strategy: str) -> Callable[[argparse.Namespace, Path, Tensor], Comparison]:
    """The task of captioning with a sampling strategy."""

    def compare(options: argparse.Namespace, folder: Path, pixels: Tensor) -> Comparison:
        hf, tokenizer = build_model(BlipForConditionalGeneration, options, folder)
        samples = strategy == "nucleus"
        n = options.captions if samples else 1
        captioner_options = CaptionerOptions(
            sampling=SamplingConfig(strategy=strategy),
            batch_size=options.batch_size,
            precision=options.precision,
        )
        ours = Captioner.from_checkpoint(folder, captioner_options, device=options.device)
        keys = [str(i) for i in range(len(pixels))]
        prompt = torch.cat([ours.prompt.ids, torch.tensor([tokenizer.sep_id])]).to(options.device)
        nucleus = {"do_sample": True, "top_p": 0.9, "top_k": 0, "num_return_sequences": n}
        decoding = nucleus if samples else {"num_beams": 3}

        def theirs() -> list[str]:
            texts = []
            for batch in pixels.split(options.batch_size):
                normalized = normalize(batch, hf.dtype, options.device)
                ids = prompt.expand(len(batch), -1).clone()
                out = hf.generate(
                    pixel_values=normalized, input_ids=ids, max_length=20, min_length=5, **decoding
                )
                texts += tokenizer.decode_batch([row.tolist() for row in out])
            return texts

        return Comparison(
            ours=lambda: [c.text for captions in ours.caption(pixels, keys, n=n) for c in captions],
            theirs=theirs,
            facts=lambda texts: {"tokens_per_caption": mean(len(text.split()) + 1 for text in texts)},
            agreement=None if samples else share_of_equal_texts,
        )

    return compare


def share_of_equal_texts(ours: list[str], theirs: list[str]) -> float:
    """The share of equal captions; those of transformers include the prompt."""
    prompt = CaptionerOptions.prompt.strip()
    return mean(y.removeprefix(prompt).strip() == x for x, y in zip(ours, theirs, strict=True))


def filtering(options: argparse.Namespace, folder: Path, pixels: Tensor) -> Comparison:
    """The task of scoring a few texts per image."""
    hf, tokenizer = build_model(BlipForImageTextRetrieval, options, folder)
    matcher_options = MatcherOptions(
        itm_token="cls",  # the only one in transformers
        batch_size=options.batch_size,
        precision=options.precision,
    )
    ours = Matcher.from_checkpoint(folder, matcher_options, device=options.device)
    lengths = torch.randint(5, 20, (len(pixels), options.texts)).tolist()
    texts = [
        [" ".join(f"w{(7 * i + k) % 500}" for k in range(length)) for length in image_lengths]
        for i, image_lengths in enumerate(lengths)
    ]

    def theirs() -> list[float]:
        probabilities: list[float] = []
        for start in range(0, len(pixels), options.batch_size):
            batch = slice(start, start + options.batch_size)
            ids, mask = tokenizer.encode(
                [text for image_texts in texts[batch] for text in image_texts], MAX_TOKENS
            )
            normalized = normalize(pixels[batch], hf.dtype, options.device)
            logits = hf(
                input_ids=ids.to(options.device),
                attention_mask=mask.to(options.device),
                pixel_values=normalized.repeat_interleave(options.texts, dim=0),
                use_itm_head=True,
            )[0]
            probabilities += logits.float().softmax(-1)[:, 1].tolist()
        return probabilities

    return Comparison(
        ours=lambda: [score.itm_prob for scores in ours.match(pixels, texts) for score in scores],
        theirs=torch.inference_mode()(theirs),
        facts=lambda _: {"tokens_per_text": mean(n + 2 for image_lengths in lengths for n in image_lengths)},
        agreement=lambda a, b: mean(abs(x - y) < 0.02 for x, y in zip(a, b, strict=True)),
    )


TASKS: dict[str, Callable[[argparse.Namespace, Path, Tensor], Comparison]] = {
    "caption-nucleus": captioning("nucleus"),
    "caption-beam": captioning("beam"),
    "filter": filtering,
}


def build_model(kind: Any, options: argparse.Namespace, folder: Path) -> tuple[Any, Tokenizer]:
    """A model of transformers with random weights, saved to `folder` with a synthetic vocabulary of BERT's
    size."""
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "picture", "of"]
    entries += [f"w{i}" for i in range(BERT_ENTRIES - len(entries))]
    (folder / "vocab.txt").write_text("\n".join(entries) + "\n")
    tokenizer = Tokenizer.from_folder(folder)
    model = kind(make_config(SIZES[options.size], options.image_size, tokenizer))
    if kind is BlipForConditionalGeneration:
        scale_logits(model.text_decoder, tokenizer.sep_id)
    model.save_pretrained(folder)
    tokenizer.save(folder)
    return model.to(options.device, getattr(torch, options.precision)).eval(), tokenizer


@torch.no_grad()
def scale_logits(decoder: Any, end_id: int) -> None:
    """Scale random logits to a standard deviation of LOGIT_STD, and make the end token 1 / CAPTION_TOKENS
    likely."""
    head, words = decoder.cls.predictions, decoder.bert.embeddings.word_embeddings.weight
    head.transform.LayerNorm.weight.fill_(LOGIT_STD / (INIT_STD * words.shape[1] ** 0.5))
    words[end_id] = 0  # so that its logit equals its bias for every image
    log_total = math.log(BERT_ENTRIES) + LOGIT_STD**2 / 2  # of the exponentials of a normal distribution
    head.bias[end_id] = log_total - math.log(CAPTION_TOKENS)


def make_config(size: Size, image_size: int, tokenizer: Tokenizer) -> BlipConfig:
    """The config of BLIP for a size; epsilon and heads of BLIP differ from the defaults of transformers."""

    def transformer(width: int, depth: int, heads: int) -> dict[str, Any]:
        return {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": 4 * width,
        }

    text = transformer(*size.text) | {
        "vocab_size": tokenizer.vocab_size,
        "encoder_hidden_size": size.vision[0],
        "bos_token_id": tokenizer.dec_id,
        "sep_token_id": tokenizer.sep_id,
        "pad_token_id": tokenizer.pad_id,
    }
    vision = transformer(*size.vision) | {
        "image_size": image_size,
        "layer_norm_eps": 1e-6,
        "initializer_range": INIT_STD,
    }
    return BlipConfig(text_config=text, vision_config=vision, image_text_hidden_size=256)


# ---- measurement


def seconds_of(function: Callable[[], Any], device: str) -> float:
    """Seconds of one call, including queued work of the device."""
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


def format_line(result: dict[str, Any]) -> str:
    """The result of a task as one line."""
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
