"""Shards, the unit of work: read from a manifest or the corpus, written as tar and Parquet, committed by a
record.

`read` makes the rows of a shard (`tars` those of existing image tars), `pack` and `write` write them,
`commit` creates the commit records that `records` defines, and `retry` downloads failed rows of a committed
shard again. Imports `stages.manifest`, `stages.storage` and the files of `stages`. Start with `write.py`.
"""
