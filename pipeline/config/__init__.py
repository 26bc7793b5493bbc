"""The config of a run: its sections, how a YAML file becomes a checked `Config`, and the shipped configs.

Start with `schema.py` and `sections.py` (every key), then `load.py` (files, `--set` overrides, messages).
Settings of a stage or a model are defined beside the code that owns them.
May import `stages`, `models`, `cluster.config`, `pipeline.corpora`; never Ray or torch at import time.
"""
