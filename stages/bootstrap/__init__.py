"""CapFilt: writes synthetic captions and scores all texts, to keep the best (BLIP paper, section 3.3).

`caption` writes texts for images, `candidates` collects the texts of an image and flags them, `filter` scores
them, and `duplicates` flags surplus copies of an image. Imports `models`, `stages.storage` and the files of
`stages`. Start with `filter.py`.
"""
