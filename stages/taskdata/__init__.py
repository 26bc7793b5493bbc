"""Data of the downstream tasks: questions, statements and captions, in the layouts in which they are handed
out.

Imports `storage`, `manifest` and `status`. Start with `records.py`, what every layout becomes; `rows.py` has
the Parquet files, and what a training reads of them.
"""
