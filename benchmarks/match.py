"""Matching: capfilt against the BLIP of transformers and against its image encoder alone, in timm.

    python -m benchmarks.match --size base --image-size 384 --batch-size 32 --texts 3

One batch of random images with random weights, and a few texts per image. All sides get the same uint8 pixels
on the host and return scores, or image states, on the host; loading, decoding and resizing are left out.
transformers is used as is common: one call per batch with one row for each (image, text) pair, and only its
ITM head; capfilt computes the ITC similarity too. The scores are compared before anything is timed. The last
line is one JSON object with `ours_over_vit` and `transformers_over_ours`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from transformers import BlipForImageTextRetrieval

from benchmarks.parts.blip_models import ModelOptions, add_model_arguments, build_model, model_options
from benchmarks.parts.sides import Sides, compare, report
from capfilt.models.images.pixels import normalize
from capfilt.models.tasks.matcher import Matcher
from capfilt.models.tasks.options import MAX_TOKENS, MatcherOptions

TOKENS = (6, 11)
"""Fewest and most words of a text; with [CLS] and [SEP], 8 to 13 tokens."""


def matching(model: ModelOptions, batch_size: int, texts_per_image: int, folder: Path) -> Sides:
    """All sides, with the same weights, pixels and texts."""
    hf, tokenizer = build_model(BlipForImageTextRetrieval, model, folder)
    options = MatcherOptions(
        itm_token="cls",  # the only one in transformers
        batch_size=batch_size,
        precision=model.precision,
    )
    ours = Matcher.from_checkpoint(folder, options, device=model.device)
    side = model.image_size
    pixels = torch.randint(0, 256, (batch_size, 3, side, side), dtype=torch.uint8)
    lengths = torch.randint(TOKENS[0], TOKENS[1] + 1, (batch_size, texts_per_image)).tolist()
    texts = [
        [" ".join(f"w{(7 * i + k) % 500}" for k in range(length)) for length in image_lengths]
        for i, image_lengths in enumerate(lengths)
    ]

    @torch.inference_mode()
    def theirs() -> list[float]:
        ids, mask = tokenizer.encode([text for image_texts in texts for text in image_texts], MAX_TOKENS)
        normalized = normalize(pixels, hf.dtype, model.device).repeat_interleave(texts_per_image, dim=0)
        logits = hf(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            pixel_values=normalized,
            use_itm_head=True,
        )[0]
        return logits.float().softmax(-1)[:, 1].tolist()

    @torch.inference_mode()
    def encode() -> torch.Tensor:
        return ours.med.encode_image(normalize(pixels, hf.dtype, model.device)).cpu()

    return Sides(
        ours=lambda: [score.itm_prob for scores in ours.match(pixels, texts) for score in scores],
        vit=encode,
        transformers=theirs,
        med=ours.med,
    )


def main() -> None:
    """Measure, and store and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_model_arguments(parser)
    parser.add_argument("--texts", type=int, default=3, help="texts per image")
    options = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        sides = matching(model_options(options), options.batch_size, options.texts, Path(folder))
        pairs = zip(sides.ours(), sides.transformers(), strict=True)
        difference = max(abs(ours - theirs) for ours, theirs in pairs)
        print(f"largest difference of a probability: {difference:.4f}")
        case = compare(sides, options.repeats) | {"largest_difference": difference}
    name = f"match-{options.device}-{options.size}-{options.batch_size}"
    report(name, vars(options), {f"{options.texts} texts": case})


if __name__ == "__main__":
    main()
