"""What a run directory holds: files of its rounds, totals over its records, images of its trainings.

Like `rundir` it loads neither Ray nor torch. Start with `round_files.py` (the committed files of a round) and
`totals.py` (sums over the records of a node).
"""
