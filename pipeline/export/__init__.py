"""Exports: what a run has kept, written in the forms that trainers read.

May import the other folders under `pipeline` except `cli`; only `node.py` loads Ray, for shards with images.
Start with `export.py`, which takes a request to the finished folder: `plan.py` checks the request,
`target.py` the folder, `here.py` or `node.py` writes the shards, `finish.py` what comes last.
"""
