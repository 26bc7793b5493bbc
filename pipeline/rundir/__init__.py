"""What a run directory says: who works on it, which nodes and shards are done, and with which settings.

Of the program it imports `pipeline.config` and `pipeline.node` only, and it loads neither Ray nor torch.
Start with `run_dir.py` (all that is known of a run directory) and `ledger.py` (its records).
"""
