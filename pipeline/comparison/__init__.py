"""Two runs side by side: what `capfilt report A B` prints and writes.

`run` opens a round of a run, `compare` computes everything from two of them with `settings`, `figures` and
`shared`; `text` prints it and `page` renders it from `templates/`. Imports `pipeline.report`,
`pipeline.rundir` and `pipeline.nodes.report`; neither Ray nor torch. Start with `compare`.
"""
