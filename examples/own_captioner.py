"""Your own captioner before capfilt's filter: the stages of a bootstrap, called by hand, without Ray.

    python examples/own_captioner.py [FILTER]

FILTER is the checkpoint of the filter: a folder, a file or a URL such as hf://Salesforce/blip-itm-base-coco.
Without it a tiny filter with random weights is used; its verdicts mean nothing.
"""

import io
import sys

import duckdb
import numpy as np
import pyarrow as pa
from PIL import Image
from tiny_blip import save_tiny_blip

from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from capfilt.stages.bootstrap.filter import Filter, FilterConfig
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.rows import CAPTION_TYPE
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Provenance, Write, WriteConfig
from capfilt.stages.storage.store import Store

PALETTE = {"red": (214, 39, 40), "green": (44, 150, 60), "blue": (40, 90, 220), "yellow": (245, 214, 30)}


class ColorCaptioner:
    """A stage: it gets a table of rows and returns the same rows with the column `captions`.

    It names the color of the most saturated pixel. Put your model here.
    """

    def __call__(self, batch: pa.Table) -> pa.Table:
        captions = [[] if image is None else [self._caption(image)] for image in batch["image"].to_pylist()]
        return batch.append_column("captions", pa.array(captions, pa.list_(CAPTION_TYPE)))

    def _caption(self, image: bytes) -> dict:
        pixels = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=int).reshape(-1, 3)
        most_saturated = pixels[np.ptp(pixels, axis=1).argmax()]
        color = min(PALETTE, key=lambda name: np.abs(most_saturated - PALETTE[name]).sum())
        return {"caption_index": 0, "text": f"something {color}"}


# The input: ten images with noisy texts, below shapes/web.
make_shapes(ShapesConfig(human=1, web=10, test=1), "shapes")
run_dir = Store("own-run")
build_index(ManifestConfig(manifest="shapes/web/manifest.parquet"), run_dir / "manifests/web", source="web")

image = DecodeConfig(min_side=32, resize="original")
checkpoint = sys.argv[1] if len(sys.argv) > 1 else save_tiny_blip("models")[1]
stages = [
    Read(ReadConfig(run_dir=run_dir)),
    Fetch(FetchConfig(image_root="shapes/web", image=image)),
    ColorCaptioner(),
    Filter(FilterConfig(threshold=0.5), ModelSource(checkpoint=checkpoint), keep_images=True),
    Write(
        WriteConfig(
            run_dir=run_dir,
            corpus_fingerprints={"web": "by-hand"},  # write images and rows of this source
            round=1,
            round_fingerprint="by-hand",  # write candidates
            provenance=Provenance(
                captioner="color-captioner",
                filter=checkpoint,
                top_p=1.0,
                top_k=0,
                repetition_penalty=1.0,
                thresholds={"web": 0.5, "synthetic": 0.5},
            ),
        )
    ),
]

batch = pa.Table.from_pylist([{"source": "web", "shard": 0}])
for stage in stages:
    batch = stage(batch)

candidates = "own-run/rounds/1/web/*.parquet"
print(duckdb.sql(f"SELECT key, origin, text, itm_prob, kept FROM '{candidates}' ORDER BY key, origin DESC"))
print(duckdb.sql(f"SELECT origin, 1 - avg(kept::INT) AS noise_ratio FROM '{candidates}' GROUP BY origin"))
