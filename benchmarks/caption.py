"""Captioning: capfilt against the BLIP of transformers and against its image encoder alone, in timm.

    python -m benchmarks.caption --size base --image-size 384 --batch-size 32

One batch of random images with random weights. All sides get the same uint8 pixels on the host and return
texts, or image states, on the host; loading, decoding and resizing are left out. transformers is used as is
common: one call of `generate` per batch. Beam search, which draws nothing, is compared text by text before
anything is timed. The last line is one JSON object with `ours_over_vit` and `transformers_over_ours` of each
case.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from transformers import BlipForConditionalGeneration

from benchmarks.parts.blip_models import ModelOptions, add_model_arguments, build_model, model_options
from benchmarks.parts.sides import Sides, compare, report
from capfilt.models.decoding.config import SamplingConfig
from capfilt.models.images.pixels import normalize
from capfilt.models.tasks.captioner import Captioner
from capfilt.models.tasks.options import CaptionerOptions

MAX_NEW_TOKENS = 16
NUCLEUS = SamplingConfig(max_new_tokens=MAX_NEW_TOKENS)
BEAM = SamplingConfig(strategy="beam", max_new_tokens=MAX_NEW_TOKENS)


class Captioning:
    """One model on both sides, and the pixels."""

    def __init__(self, model: ModelOptions, batch_size: int, folder: Path) -> None:
        self.model, self.folder, self.batch_size = model, folder, batch_size
        self.hf, self.tokenizer = build_model(BlipForConditionalGeneration, model, folder)
        side = model.image_size
        self.pixels = torch.randint(0, 256, (batch_size, 3, side, side), dtype=torch.uint8)

    def captioner(self, sampling: SamplingConfig) -> Captioner:
        """Our captioner with the same weights."""
        options = CaptionerOptions(
            sampling=sampling, batch_size=self.batch_size, precision=self.model.precision
        )
        return Captioner.from_checkpoint(self.folder, options, device=self.model.device)

    def sides(self, sampling: SamplingConfig, captions: int) -> Sides:
        """All sides of a case."""
        ours = self.captioner(sampling)
        keys = [str(row) for row in range(self.batch_size)]
        nucleus = {"do_sample": True, "top_p": 0.9, "top_k": 0, "num_return_sequences": captions}
        decoding = {"num_beams": 3} if sampling.strategy == "beam" else nucleus
        prompt = torch.cat([ours.prompt.ids, torch.tensor([self.tokenizer.sep_id])]).to(self.model.device)
        lengths = {
            "max_length": len(ours.prompt.ids) + MAX_NEW_TOKENS,
            "min_length": len(ours.prompt.ids) + 1,
        }

        def theirs() -> list[str]:
            pixels = normalize(self.pixels, self.hf.dtype, self.model.device)
            ids = prompt.expand(len(pixels), -1).clone()
            out = self.hf.generate(pixel_values=pixels, input_ids=ids, **lengths, **decoding)
            return self.tokenizer.decode_batch([row.tolist() for row in out])

        @torch.inference_mode()
        def encode() -> torch.Tensor:
            pixels = normalize(self.pixels, self.hf.dtype, self.model.device)
            return ours.med.encode_image(pixels).cpu()

        return Sides(
            ours=lambda: ours.caption(self.pixels, keys, n=captions),
            vit=encode,
            transformers=theirs,
            med=ours.med,
        )

    def share_of_equal_texts(self) -> float:
        """The share of equal texts of both sides with beam search; those of transformers open with the
        prompt."""
        sides = self.sides(BEAM, 1)
        prompt = CaptionerOptions.prompt.strip()
        pairs = zip(sides.ours(), sides.transformers(), strict=True)
        return statistics.fmean(
            captions[0].text == text.removeprefix(prompt).strip() for captions, text in pairs
        )


def main() -> None:
    """Measure each case, and store and print the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_model_arguments(parser)
    parser.add_argument("--captions", type=int, nargs="+", default=[1, 4], help="captions per image")
    options = parser.parse_args()
    torch.manual_seed(0)
    cases = {}
    with tempfile.TemporaryDirectory() as folder:
        captioning = Captioning(model_options(options), options.batch_size, Path(folder))
        equal = captioning.share_of_equal_texts()
        print(f"beam search: {equal:.1%} of the texts are equal")
        for captions in options.captions:
            sides = captioning.sides(NUCLEUS, captions)
            tokens = statistics.fmean(caption.tokens for found in sides.ours() for caption in found)
            case = compare(sides, options.repeats)
            cases[f"{captions} captions"] = case | {"tokens_per_caption": tokens, "equal_beam_texts": equal}
            print(f"{captions} captions per image: {case}")
    report(f"caption-{options.device}-{options.size}-{options.batch_size}", vars(options), cases)


if __name__ == "__main__":
    main()
