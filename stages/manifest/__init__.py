"""Manifests: lists of urls or images with texts, in any supported format, cut into an index of shards.

`files` finds the files of a manifest, `records` reads their rows (with `text` for text formats and
`annotations` for COCO-like JSON), and `index` writes the rows as Parquet with one row group per shard.
Imports `stages.rows`, `stages.errors` and `stages.storage`. Start with `index.py`.
"""
