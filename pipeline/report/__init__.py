"""The report of a round: report.html for people, metrics.json for programs, Parquet tables for SQL.

`build` writes the files from `inputs`; `database` and `tables` query the Parquet files, `stage_times` sums
commit records; `page`, `thresholds` and `charts` make the page from `templates/`, with `gallery/` and
`formats/`; `metrics_file` is the format of metrics.json. Imports `pipeline.evaluation`. Start with `build`.
"""
