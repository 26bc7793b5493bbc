"""Training pairs from the corpus and the candidates.

`read` selects the texts of each image, `stream` puts the pairs into a seeded order that can be resumed at any
sample, and `parts` divides a source over several epochs. Imports `stages.shards`, `stages.bootstrap`,
`stages.verdicts`, `stages.storage` and the files of `stages`. Start with `stream.py`.
"""
