"""The metrics of a run: their names and labels are an interface, like the columns of a file."""

from __future__ import annotations

from capfilt.cluster.metrics import Family

RUN = "run"
"""Label of every metric: the run directory."""


def _counter(name: str, help: str, *labels: str) -> Family:
    return Family(name=name, kind="counter", help=help, labels=("node", *labels))


def _gauge(name: str, help: str, *labels: str) -> Family:
    return Family(name=name, kind="gauge", help=help, labels=("node", *labels))


SHARDS = _counter("capfilt_shards", "Shards that this command has finished.")
ROWS = _counter("capfilt_rows", "Rows of finished shards.", "status")
TEXTS = _counter("capfilt_texts", "Texts of finished shards by verdict.", "origin", "verdict")
STAGE_SECONDS = _counter(
    "capfilt_stage_seconds", "Seconds that the processes of a stage worked on finished shards.", "stage"
)
BYTES = _counter("capfilt_written_bytes", "Bytes of the files of finished shards.")
REPEATED = _counter(
    "capfilt_repeated_shards",
    "Attempts on shards that have raised (error), or that follow a process that died (death).",
    "stage",
    "cause",
)
PASSES = _counter(
    "capfilt_repeated_passes",
    "Times that a node has started its stages again: resized, lost (machines), failed (shards) or error.",
    "cause",
)
RUNNING = _gauge("capfilt_node_running", "1 while the node runs, 0 once it has ended.")
DONE = _gauge("capfilt_progress_done", "Rows, shards or steps that are done, of all commands.", "unit")
ALL = _gauge("capfilt_progress_all", "Rows, shards or steps in all.", "unit")
PROGRESS_AT = _gauge("capfilt_last_progress_timestamp_seconds", "Unix time at which more was done last.")
PROCESSES = _gauge("capfilt_stage_processes", "Processes of a stage that can work side by side.", "stage")
GPUS = _gauge("capfilt_stage_gpus", "GPUs that the processes of a stage hold.", "stage")
AT_WORK = _gauge("capfilt_stage_shards_at_work", "Shards that a stage works on.", "stage")
WAITING = _gauge("capfilt_stage_shards_waiting", "Shards that wait before a stage.", "stage")
EFFICIENCY = _gauge(
    "capfilt_stage_efficiency",
    "Images per second, divided by those of the models of all processes alone, since the command began.",
    "stage",
)
LOSS = _gauge("capfilt_training_loss", "Loss of the last step that was reported.", "loss")
SAMPLES = _gauge("capfilt_training_samples_per_second", "Samples per second since the training began.")
READ = _gauge(
    "capfilt_training_epoch_read_bytes", "Bytes read from the run directory for each worker in the epoch."
)

FAMILIES = (
    SHARDS,
    ROWS,
    TEXTS,
    STAGE_SECONDS,
    BYTES,
    REPEATED,
    PASSES,
    RUNNING,
    DONE,
    ALL,
    PROGRESS_AT,
    PROCESSES,
    GPUS,
    AT_WORK,
    WAITING,
    EFFICIENCY,
    LOSS,
    SAMPLES,
    READ,
)
LOSSES = ("loss", "itc", "itm", "lm")
"""Losses that trainings report."""
