"""The modules of MED: image encoder, text encoder and decoder, their attention, and the tokenizer.

Imports only `models.config`. Parameter names are those of salesforce/BLIP, so released checkpoints load by
name. Start with `med.py`, which assembles `vit.py` (images) and `text.py` (texts).
"""
