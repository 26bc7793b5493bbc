"""Image bytes of any kind to the bytes that are stored, on the CPU.

Start with `decode.py: decode_and_resize`, which checks, decodes, resizes and encodes one image; `jpeg.py`,
`resize.py` and `phash.py` are its steps. Imports `stages.status`, and `models.images` for orientation and
colors.
"""
