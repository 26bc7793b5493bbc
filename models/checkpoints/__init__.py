"""Checkpoints: the capfilt format, and the formats of transformers, salesforce/BLIP and LAVIS.

Imports `models.network` and `models.config`. `files.py` does not import torch. Start with `load.py` (load,
save, export). `pretrained_start.py` initializes pretraining from BERT and ViT weights, `finetune_start.py`
initializes models that exist only after finetuning.
"""
