"""Training pairs from the corpus and the candidates.

`read` selects the texts of each image, `texts` weighs them, `draw` draws those of an epoch, `order` puts all
into an order, `cut` gives each worker its part (`samples`), `stream` makes batches of it, and `parts` divides
a source over several epochs. Imports `stages.shards`, `stages.bootstrap`, `stages.verdicts`,
`stages.storage`, the files of `stages`, and `models.keyed_random`. Start with `stream.py`.
"""
