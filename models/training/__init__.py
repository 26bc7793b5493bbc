"""Training of MED: the three losses, the momentum encoder, the optimizer, image augmentation.

Imports `models.network`, `models.images` and `models.config`; the training loop itself is in the pipeline.
Start with `objectives.py`, which combines `contrast.py`, `momentum.py` and `collectives.py`.
"""
