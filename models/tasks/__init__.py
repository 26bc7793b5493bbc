"""Inference with a trained MED: captioning, image-text matching, retrieval.

Imports every other folder of `models`. `options.py` does not import torch, so that configs can refer to its
defaults. Start with `captioner.py`; `placement.py` and `micro_batches.py` are shared by all tasks.
"""
