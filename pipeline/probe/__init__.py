"""The small run that `capfilt plan` makes of a config, and what it measures.

Start with `run.py`; the small run has a folder of its own beside the run directory, which is removed again.
May import everything under `pipeline` but `pipeline.cli`.
"""
