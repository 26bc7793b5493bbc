"""The node that joins captions from elsewhere to the images of web sources.

`node.py` has the kind of node; `inputs.py` says which captions a config names, and checks their files.
Imports `pipeline.node`, `pipeline.config` and `pipeline.rundir`; never Ray or torch.
"""
