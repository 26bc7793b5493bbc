"""A chain of stages over shards, with one Ray Data block per shard.

`stage.py` states what a stage is, `engine.py` runs a chain, `ray_internals.py` holds what is private in Ray.
`isolation.py` finds the rows on which a stage fails, `watchdog.py` and `subprocess_stage.py` end hanging and
leaking processes, `resizing.py` follows the cluster. Imports PyArrow and `cluster.board`.
"""
