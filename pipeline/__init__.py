"""The program: configs, the DAG of nodes, run directories, the command line, evaluation and reports.

It may import `stages`, `models` and `cluster`, but not Ray. `plan`, `prepare`, `config`, `rundir` and
`console` load neither Ray nor torch, so that a mistake in a config is reported within a second.
Start with `plan.py` (the method as a DAG), then read `prepare.py` and `execute.py`.
"""
