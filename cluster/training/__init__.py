"""Data-parallel training on Ray Train: checkpoints, resume, worker failures.

`trainer.py` trains any `Learner`; `rescue.py` finds the last complete checkpoint when Ray Train's own list of
checkpoints is damaged. Imports Ray, torch, `cluster.board` and `cluster.config`. Start with `trainer.py`.
"""
