"""Where a bootstrap is killed: each stage, each step of each commit, each process."""

from tests.faults.harness import Fault

COMMIT = [
    Fault(f"{write} {when} {name}")
    for write, name in (
        ("put", "corpus/web/000001.tar"),
        ("put", "corpus/web/000001.parquet"),
        ("create", "corpus/web/000001.json"),
        ("put", "rounds/1/web/000001.parquet"),
        ("create", "rounds/1/web/000001.json"),
    )
    for when in ("before", "torn", "after")
]
"""A writing worker dies before, in the middle of and after each write of a shard."""

STAGES = [
    Fault(f"stage {when} {stage} 2")
    for stage in ("read", "fetch", "caption", "filter", "write")
    for when in ("before", "after")
    if (stage, when) not in (("read", "before"), ("write", "after"))  # they have no shard's rows there
]
"""The process of a stage dies with a shard in its hands."""

PROCESSES = [
    Fault(f"stage before {stage} {shard}", kill)
    for kill in ("driver", "raylet", "head")
    for stage, shard in (("fetch", 0), ("caption", 2), ("filter", 4))
]

DRIVER = [
    Fault("put before nodes/bootstrap.1.started.json", "driver"),
    Fault("put after nodes/bootstrap.1.started.json", "driver"),
    Fault("put torn corpus/web/index/index.json", "driver"),
    Fault("put before nodes/bootstrap.1.json", "driver"),
    Fault("put torn nodes/bootstrap.1.json", "driver"),
    Fault("put after nodes/bootstrap.1.json", "driver"),
    Fault("put before nodes/report.1.json", "driver"),
]

FULL = [
    Fault(f"{write} torn {name}", "full")
    for write, name in (
        ("put", "corpus/web/000002.tar"),
        ("put", "rounds/1/web/00000[0-9].parquet"),
        ("create", "rounds/1/web/000003.json"),
    )
]
"""The disk is full, until there is room again."""

ALL = [*COMMIT, *STAGES, *PROCESSES, *DRIVER, *FULL]

S3 = [fault for fault in [*COMMIT, *STAGES, *PROCESSES, *DRIVER] if " torn " not in fault.at]
"""The same with the run directory on S3, where an object is written by one request: there is no middle."""

TRAININGS = [
    Fault("put before logs/pretrain.0/000000005.jsonl", "driver"),
    Fault("put after logs/captioner.1/000000003.jsonl", "driver"),
    Fault("put before models/filter.1/provenance.json", "driver"),
]
"""A whole loop on S3 whose driver dies in the trainings."""

NODES = [
    Fault("stage before fetch 0", "node"),
    Fault("stage before caption 2", "node"),
    Fault("stage after filter 3", "node"),
    Fault("create after rounds/1/web/000001.json", "node"),
    Fault("stage before caption 1", "gcs"),
]
"""On a cluster of several nodes: one of them goes (spot preemption), and the head."""

DISK_TRAININGS = [Fault("list torn 2", "driver")]
"""A whole loop on a disk, which dies while Ray Train rewrites its list of checkpoints."""

NODE_TRAININGS = [Fault(fault.at, "node") for fault in TRAININGS]
"""A whole loop on a cluster of several nodes, which loses the one that trains."""

SHORT = [Fault("create torn rounds/1/web/000001.json")]
"""What CI runs, with one kill of the driver at a random moment."""
