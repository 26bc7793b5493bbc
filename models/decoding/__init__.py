"""Text generation from image states: nucleus sampling, greedy decoding, beam search.

Imports `models.network`, `models.config` and `models.keyed_random`.
Start with `generate.py`, the entry point; `state.py` holds the caches that `sample.py` and `beam.py` advance.
"""
