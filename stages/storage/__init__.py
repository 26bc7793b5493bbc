"""Files on any filesystem: local disks and every store that fsspec reaches.

`store.Store` reads and writes a run directory, `layout` names every path in it, `artifacts` makes checkpoints
and tokenizers available as local files, and `sql` runs DuckDB over Parquet files. Imports only
`stages.errors`. Start with `store.py`.
"""
