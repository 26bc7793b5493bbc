"""BLIP's MED model in plain torch: network, losses, decoding, checkpoints, and inference for each task.

Nothing here imports Ray or any other part of capfilt. `config.py`, `caption_text.py`, `out_of_memory.py` and
`tasks/options.py` do not import torch either, so the driver can read them at no cost.
Start with `network/med.py` (the model), then `decoding/generate.py` and `training/objectives.py`.
"""
