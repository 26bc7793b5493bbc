"""Captions that somebody else has written, as candidates beside the captioner's own.

`pairs` reads the files, `places` the images of a source, `join` finds the image of each caption and writes
the captions in the order of the shards, and `shards` reads those of a shard. Imports `stages.manifest`,
`stages.carried`, `stages.storage` and the files of `stages`. Start with `join.py`.
"""
