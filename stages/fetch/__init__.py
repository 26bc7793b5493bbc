"""The fetch stage: manifest rows in, the same rows with stored images or a failure status out.

Start with `stage.py`; `by_source.py` gives each source its own settings, and `config.py` has them all.
`outcomes.py` turns bytes into columns, `image_folder.py` reads files instead of urls, `img2dataset.py` is the
other backend, and `http/` downloads. Imports `images`, `rows`, `status` and `storage` of `stages`.
"""
