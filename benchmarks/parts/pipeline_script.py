"""Captions and scores for a url list as users get them today: img2dataset, then Ray Data with transformers.

    python -m benchmarks.parts.pipeline_script urls.parquet out captioner filter 100

The other side of `benchmarks.pipeline`. The scored pairs are written to out/scored, as Parquet.
"""

from __future__ import annotations

import io
import sys
from typing import Any

import ray
import torch
from img2dataset import download
from PIL import Image
from transformers import AutoProcessor, BlipForConditionalGeneration, BlipForImageTextRetrieval

PROCESSES, THREADS, BATCH_SIZE, SIZE = 2, 32, 32, 384
PROMPT = "a picture of"


def open_images(batch: dict[str, Any]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in batch["jpg"]]


class Captioner:
    def __init__(self, folder: str) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = BlipForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        images = open_images(batch)
        inputs = self.processor(images=images, text=[PROMPT] * len(images), return_tensors="pt")
        ids = self.model.generate(
            **inputs.to(torch.bfloat16), do_sample=True, top_p=0.9, top_k=0, min_length=5, max_length=20
        )
        batch["synthetic"] = self.processor.batch_decode(ids, skip_special_tokens=True)
        return batch


class Filter:
    def __init__(self, folder: str) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = BlipForImageTextRetrieval.from_pretrained(folder, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        images = open_images(batch)
        for column in ("txt", "synthetic"):
            inputs = self.processor(
                images=images, text=list(batch[column]), padding=True, truncation=True, max_length=35,
                return_tensors="pt",
            )  # fmt: skip
            logits = self.model(**inputs.to(torch.bfloat16))[0]
            batch[f"{column}_score"] = logits.float().softmax(-1)[:, 1].numpy()
        return batch


def main() -> None:
    urls, out, captioner, matcher, shard = sys.argv[1:]
    download(
        url_list=urls, input_format="parquet", url_col="url", caption_col="caption",
        output_format="webdataset", output_folder=f"{out}/images", processes_count=PROCESSES,
        thread_count=THREADS, image_size=SIZE, resize_mode="keep_ratio", resize_only_if_bigger=True,
        number_sample_per_shard=int(shard), retries=2,
    )  # fmt: skip
    ray.init("local", num_cpus=PROCESSES)
    pairs = ray.data.read_webdataset(f"{out}/images", file_extensions=["tar"], decoder=None)
    pairs = pairs.map(lambda row: {"jpg": row["jpg"], "txt": row["txt"].decode(), "key": row["__key__"]})
    actors = {"concurrency": 1, "num_cpus": 0.5, "batch_size": BATCH_SIZE}
    pairs = pairs.map_batches(Captioner, fn_constructor_args=(captioner,), **actors)
    pairs = pairs.map_batches(Filter, fn_constructor_args=(matcher,), **actors)
    pairs.drop_columns(["jpg"]).write_parquet(f"{out}/scored")


if __name__ == "__main__":
    main()
