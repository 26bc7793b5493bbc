"""The images of a page: which ones are chosen, and the cards that show them with their texts.

`examples` chooses them by SQL, `thumbnails` makes small copies that fit on a page, `cards` groups and filters
them. Imports `pipeline.report.formats`, `pipeline.evaluation` and `models.images`. Start with `cards`.
"""
