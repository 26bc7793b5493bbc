"""A chain of stages over shards, with one Ray Data block per shard.

`stage.py` states what a stage is, `steps.py` runs one on a shard, `engine.py` runs a chain. `isolation.py`
finds the rows on which a stage fails, `watchdog.py` and `subprocess_stage.py` end hanging and leaking
processes, `resizing.py` follows the cluster, `efficiency.py` measures the chain against its models alone,
`ray_internals.py` holds what is private in Ray.
"""
