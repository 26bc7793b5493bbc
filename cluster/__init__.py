"""Execution on Ray: connection, sizing, the chain of stages, data-parallel training, live status.

This is the only package that imports Ray. It imports nothing else of the project except its own modules and
knows neither images nor captions: rows are Arrow tables, stages and learners are passed in. Start with
`chain/engine.py` (shards through stages) and `training/trainer.py` (steps on workers).
"""
