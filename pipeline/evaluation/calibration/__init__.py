"""Calibration of a filter without known truth: the noise among the web texts, and a threshold.

`swapped` samples the texts and scores them, `ranks` estimates the unrelated texts and suggests a threshold,
`substitutes` and `details` estimate the texts that are wrong in a detail; `result` is what they find.
"""
