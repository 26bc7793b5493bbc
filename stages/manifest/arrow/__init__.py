"""Columns of a manifest as Arrow arrays, cleaned without a Python object for each value.

`values` does for whole columns what `stages.manifest.row` and `stages.manifest.columns` do for single values,
with the same results. Imports only pyarrow.
"""
