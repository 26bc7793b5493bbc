"""The training of a MED that the nodes `pretrain`, `captioner` and `filter` run on each training worker.

Imports `cluster`, `stages`, `models`, and of `pipeline` the config and the layout of a run directory. The
driver imports `spec.py`, `build.py` and `vocabulary.py`; workers import the rest. Start with `spec.py`, what
a worker receives, then `learner.py`: one optimizer step, checkpoints, the result.
"""
