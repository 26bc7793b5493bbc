"""Manifests: lists of urls or images with texts, in any supported format, cut into an index of shards.

`files` finds the files of a manifest, `records` reads their rows (with `text` for text formats and
`annotations` for COCO-like JSON), `cut` makes tables of them, by whole columns where it can (`arrow`), and
`index` writes these as Parquet. Imports `stages.carried`, `stages.storage` and files of `stages`.
"""
