"""What a run shows to Prometheus (docs/monitoring.md).

`families.py` lists the metrics, `run_metrics.py` sets them. All come from the driver: from the records of
committed shards, which no retry counts twice, and from what its status board knows. Imports `cluster.metrics`
and the console's progress.
"""
