"""The stages: plain classes, each of which maps a batch of rows to the same rows with more columns.

`manifest` cuts lists of urls into shards, `shards` reads and commits shards, `fetch` and `images` download
and decode, `bootstrap` captions and filters, `pairs` gives training pairs, `storage` reads and writes files.
Imports `models` only. Start with `rows.py` for the schemas and `shards/write.py` for the result.
"""
