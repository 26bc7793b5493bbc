"""A chain of stages over shards, with one Ray Data block per shard.

`stage.py` states what a stage is, `engine.py` runs a chain. `isolation.py` finds the rows on which a stage
fails, `watchdog.py` and `subprocess_stage.py` deal with hanging, leaking and dying processes, `shrinking.py`
with a cluster that loses nodes. Imports Ray, PyArrow and `cluster.board`. Start with `stage.py`, then
`engine.py`.
"""
