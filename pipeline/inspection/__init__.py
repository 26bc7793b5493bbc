"""Looking at a run directory from outside, while a run works in it or after it ended.

May import `stages`, `pipeline.rundir`, `pipeline.console` and `pipeline.evaluation`; neither Ray nor torch,
and takes no lease. Start with `status.py`.
"""
