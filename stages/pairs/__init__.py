"""Training pairs from the corpus and the candidates.

`read` selects the texts of each image, `texts` weighs them, `draw` draws those of an epoch, `stream` puts the
pairs into a seeded order that can be resumed at any sample, and `parts` divides a source over several epochs.
Imports `stages.shards`, `stages.bootstrap`, `stages.verdicts`, `stages.storage`, the files of `stages`, and
`models.keyed_random`. Start with `stream.py`.
"""
