"""Images as model input: `decode.py` turns encoded bytes into RGB images, `pixels.py` turns images into
tensors.

`decode.py` does not import torch, because fetch workers decode images without a model.
Start with `decode.py`.
"""
