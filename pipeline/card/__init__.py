"""The card of a run: what the corpus is, how it was made, where it comes from, what its limits are.

May import `stages`, `pipeline.rundir` and `pipeline.report.formats`; neither Ray nor torch. Start with
`facts.py` (what is counted), then `readme.py` and `croissant.py` (how it is written).
"""
