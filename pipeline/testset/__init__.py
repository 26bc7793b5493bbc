"""`capfilt evaluate`: any checkpoint on any test set, without a run directory.

Imports `pipeline.evaluation`, `stages` and `models`. Start with `evaluate`; `layouts` reads the test set,
`images` its images, `results` writes the files, `java_metrics` computes METEOR and SPICE.
"""
