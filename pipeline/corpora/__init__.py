"""Demonstration corpora with known truth: drawn shapes, and clip art from Debian packages.

`shapes` and `clipart` build a corpus in a folder; `serve` serves it over HTTP, so that the fetch stage can
run without a network; `shapes_vit` trains the image encoder that the quickstart starts from. The package
imports `stages.images.phash` and, in `shapes_vit`, models. Start with `shapes`.
"""
