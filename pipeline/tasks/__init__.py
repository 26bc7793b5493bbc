"""Downstream tasks: finetuning and evaluation on questions, statements, retrieval and captions.

Imports `nodes`, `training`, `testset` and `evaluation`. Start with `plan.py`, which nodes a task has;
`data.py`, `finetune.py` and `evaluate.py` are these nodes. `learner.py` and `predict.py` run on workers.
"""
