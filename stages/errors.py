"""The base class of all errors that a user can fix."""


class UserError(Exception):
    """An error that the user can fix.

    Its message is one line: what is wrong, which value, what is allowed, what to do.

    The command line prints the message without a traceback and exits with code 2, or with 1 if a node failed.

        UserError
        ├── ArtifactError   stages/storage/artifacts.py   a checkpoint or another input file cannot be read
        ├── CandidatesError stages/foreign/config.py      captions from elsewhere cannot be read or joined
        ├── ColumnsError    stages/carried/fields.py      columns that are to be carried do not exist or clash
        ├── ManifestError   stages/manifest/config.py     a list of urls or images, or its index, is wrong
        ├── PartsError      stages/pairs/parts.py         a source has fewer shards than parts
        ├── PolicyError     stages/verdicts/rules.py      a rule of `capfilt rejudge` is wrong
        ├── StoreError      stages/storage/errors.py      a place cannot be reached, read or written
        ├── TaskDataError   stages/taskdata/records.py    a file of a downstream task cannot be used
        ├── UnknownClass    stages/shards/retry.py        an unknown status in `capfilt retry --class`
        ├── VerdictSetError stages/verdicts/sets.py       a set of verdicts is missing, stale or damaged
        ├── CardError       pipeline/card/facts.py        a run that a card cannot describe
        ├── ComparisonError pipeline/comparison/shared.py two runs that cannot be compared
        ├── ColumnsError    pipeline/export/columns.py    a column that an export cannot have
        ├── ConfigError     pipeline/config/load.py       a config file, a key or its value is wrong
        ├── ExportError     pipeline/export/plan.py       an export that cannot be made or written there
        ├── GroupError      pipeline/evaluation/groups.py verdicts cannot be grouped by such a property
        ├── LeaseError      pipeline/rundir/lease.py      another process works on the run directory
        ├── LedgerError     pipeline/rundir/ledger.py     the run directory does not fit the config
        ├── MetricsError    pipeline/report/metrics_file.py  a metrics.json cannot be read
        ├── NodeFailed      pipeline/errors.py            a node failed
        ├── ShowError       pipeline/inspection/images.py  an image that the run does not have
        ├── TestSetError    pipeline/testset/layouts.py   a test set, or an option of `evaluate`, is wrong
        ├── UidError        pipeline/export/uids.py       the rows have no uids of DataComp
        └── UnknownNode     pipeline/plan.py              the config has no such node

    `models.checkpoints.files.CheckpointError` and `cluster.config.ClusterError` are handled in the same way
    (`pipeline.errors.USER_ERRORS`). They do not derive from this class, because `models` and `cluster` import
    no other package of capfilt.
    """
