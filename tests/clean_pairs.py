"""A run directory with clean pairs as corpus shards, fetched in the process of the test."""

import pyarrow as pa

from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from capfilt.stages.fetch.by_source import FetchBySource
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.pairs.parts import ShardRef
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.store import Store


def clean_pairs(folder, source="human", *, count=24, shard_size=10):
    """Make a corpus of `count` pairs with images of 32 x 32 pixels.

    Args:
        source: kind and name of the source, "human" or "test".

    Returns:
        (run directory, shards of the corpus).
    """
    counts = {"human": 1, "web": 1, "test": 1, source: count}
    make_shapes(ShapesConfig(**counts, image_size=32), str(folder / "shapes"))
    run_dir = Store(str(folder / "run"))
    images = folder / "shapes" / source
    manifest = ManifestConfig(manifest=str(images / "annotations.json"), shard_size=shard_size)
    index = build_index(manifest, run_dir / f"manifests/{source}", source=source)
    fetch = FetchConfig(image=DecodeConfig(min_side=16, resize="original"), image_root=str(images))
    stages = (
        Read(ReadConfig(run_dir=run_dir)),
        FetchBySource({source: fetch}),
        Write(WriteConfig(run_dir=run_dir, corpus_fingerprints={source: "f"})),
    )
    for shard in range(index.shards):
        batch = pa.Table.from_pylist([{"source": source, "shard": shard}])
        for stage in stages:
            batch = stage(batch)
    return run_dir, tuple(ShardRef(source, shard, "human") for shard in range(index.shards))
