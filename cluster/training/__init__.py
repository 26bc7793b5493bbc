"""Data-parallel training on Ray Train: input, checkpoints, resume, worker failures.

`trainer.py` trains any `Learner`; `feed.py` reads the input once for all workers; `rescue.py` finds the last
complete checkpoint when Ray Train's own list of checkpoints is damaged. Imports Ray, torch, `cluster.board`
and `cluster.config`. Start with `trainer.py`.
"""
