"""The points at which a bootstrap is killed: each stage, each write of a commit, each process."""

from tests.faults.harness import Fault

COMMIT = [
    Fault(f"{write} {when} {name}")
    for write, name in (
        ("create", "images/web/000001.tar"),
        ("create", "corpus/web/000001.parquet"),
        ("create", "records/corpus/web/000001.json"),
        ("create", "rounds/1/web/000001.parquet"),
        ("create", "records/rounds/1/web/000001.json"),
    )
    for when in ("before", "torn", "after")
]
"""A writing worker dies before, during and after each write of a shard."""

STAGES = [
    Fault(f"stage {when} {stage} 2")
    for stage in ("read", "fetch", "caption", "filter", "write")
    for when in ("before", "after")
    if (stage, when) not in (("read", "before"), ("write", "after"))  # no rows of a shard exist there
]
"""The process of a stage dies while it holds the rows of a shard."""

PROCESSES = [
    Fault(f"stage before {stage} {shard}", kill)
    for kill in ("driver", "raylet", "head")
    for stage, shard in (("fetch", 0), ("caption", 2), ("filter", 4))
]
"""Another process dies while a stage is about to process a shard."""

DRIVER = [
    Fault("put before nodes/bootstrap.1.started.json", "driver"),
    Fault("put after nodes/bootstrap.1.started.json", "driver"),
    Fault("put torn manifests/web/index.json", "driver"),
    Fault("put before nodes/bootstrap.1.json", "driver"),
    Fault("put torn nodes/bootstrap.1.json", "driver"),
    Fault("put after nodes/bootstrap.1.json", "driver"),
    Fault("put before nodes/report.1.json", "driver"),
]
"""The driver dies while it writes its own records."""

FULL = [
    Fault(f"{write} torn {name}", "full")
    for write, name in (
        ("create", "images/web/000002.tar"),
        ("create", "rounds/1/web/00000[0-9].parquet"),
        ("create", "records/rounds/1/web/000003.json"),
    )
]
"""The disk is full during the first command and has space again for the second."""

ALL = [*COMMIT, *STAGES, *PROCESSES, *DRIVER, *FULL]

S3 = [fault for fault in [*COMMIT, *STAGES, *PROCESSES, *DRIVER] if " torn " not in fault.at]
"""The same with the run directory on S3, where one request writes an object: there is no torn write."""

TRAININGS = [
    Fault("put before logs/pretrain.0/000000005.jsonl", "driver"),
    Fault("put after logs/captioner.1/000000003.jsonl", "driver"),
    Fault("put before models/filter.1/provenance.json", "driver"),
]
"""The driver of a whole loop on S3 dies during a training."""

NODES = [
    Fault("stage before fetch 0", "node"),
    Fault("stage before caption 2", "node"),
    Fault("stage after filter 3", "node"),
    Fault("create after records/rounds/1/web/000001.json", "node"),
    Fault("stage before caption 1", "gcs"),
]
"""A cluster of several nodes loses one of them (spot preemption), or its head."""

DISK_TRAININGS = [Fault("list torn 2", "driver")]
"""The driver of a whole loop on a disk dies while Ray Train rewrites its list of checkpoints."""

NODE_TRAININGS = [Fault(fault.at, "node") for fault in TRAININGS]
"""A whole loop on a cluster of several nodes loses the node that trains."""

SHORT = [Fault("create torn records/rounds/1/web/000001.json")]
"""What CI runs, besides a signal to the driver at a random moment."""
