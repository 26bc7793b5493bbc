"""The base of every error that a user can fix."""


class UserError(Exception):
    """Something the user can fix; the message is one line: what, which value, what is allowed, what to do.

    The command line prints the message without a trace and exits with code 2, or with 1 when a node failed.

        UserError
        ├── ArtifactError   stages/storage/artifacts.py   a checkpoint or another input file
        ├── ManifestError   stages/manifest/config.py     a list of urls or images, or its index
        ├── PartsError      stages/pairs/parts.py         a source with fewer shards than parts
        ├── StoreError      stages/storage/store.py       a place that cannot be reached, read or written
        ├── UnknownClass    stages/shards/retry.py        a status that no failed row has
        ├── ConfigError     pipeline/config/load.py       a config file, a key or its value
        ├── LeaseError      pipeline/rundir/lease.py      a run directory that another process works on
        ├── LedgerError     pipeline/rundir/ledger.py     a run directory that does not fit the config
        ├── MetricsError    pipeline/report/metrics_file.py  a metrics.json that cannot be read
        ├── NodeFailed      pipeline/errors.py            a node that cannot end well
        └── UnknownNode     pipeline/plan.py              a node that the config does not have

    `models.checkpoints.files.CheckpointError` and `cluster.config.ClusterError` are treated alike
    (`pipeline.errors.USER_ERRORS`); these two packages import nothing of ours and so do not derive from it.
    """
