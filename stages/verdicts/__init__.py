"""Named sets of verdicts on the candidates of a round, made from their scores without a model.

`rules` parses what a user asks for, `conditions` checks its SQL, `policy` makes one SQL expression of it,
`judge` evaluates the expression shard by shard, and `sets` reads the result. Imports `stages.shards`,
`stages.storage`, `stages.bootstrap` and the files of `stages`. Start with `sets.py`.
"""
