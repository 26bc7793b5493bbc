"""The report of a round: report.html for people, metrics.json for programs, Parquet tables for SQL.

`build` writes the files from `inputs`; `tables` and `examples` query the Parquet files, `stage_times` sums
commit records; `page`, `thresholds`, `charts`, `gallery` and `addresses` make the page from `templates/`;
`metrics_file` is the format of metrics.json. Imports `pipeline.evaluation`, `pipeline.config.credentials`,
stages and models (image decoding only). Start with `build`.
"""
