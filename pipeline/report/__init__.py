"""The report of a round: report.html for people, metrics.json for programs, Parquet tables for SQL.

`build` writes the files from `inputs`; `tables` queries the run's Parquet files; `page`, `thresholds`,
`charts` and `gallery` make the page from `templates/`; `metrics_file` is the format of metrics.json. The
package imports `pipeline.evaluation`, stages and models (image decoding only). Start with `build`.
"""
