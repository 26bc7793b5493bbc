"""Commands that check or change a run that exists: `verify`, `repair` and `retry`.

They may import all of `pipeline` except `cli`. `verify` and `repair` load neither Ray nor torch; `retry`
downloads on the cluster, so it loads Ray.
Start with `verify.py`: `repair.py` removes the records of what it finds.
"""
