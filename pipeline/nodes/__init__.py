"""The kinds of node (`fetch`, `train`, `bootstrap`, `evaluate`, `report`), and what these files share.

A kind's file defines a `pipeline.node.NodeKind` and loads neither Ray nor torch when it is imported; the work
may. No file here imports `pipeline.plan`, `pipeline.prepare` or `pipeline.execute`, which import the kinds.
Start with `fetch.py`, the simplest kind that processes shards, and `shards.py`, which runs its stages.
"""
