"""The config of the small run: that of the run with less to do, and with one process of each stage.

Downstream tasks are left out: their data cannot be read in part.
"""

from __future__ import annotations

from dataclasses import replace

from capfilt.cluster.config import ActorsConfig, ClusterConfig
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.training import TrainSection
from capfilt.stages.storage.layout import DEFAULT_VERDICTS

SUFFIX = ".probe"
"""Appended to the run directory: the small run uses the store and the disk of the run."""
PIECES = 10
"""Pieces into which the steps of a training are divided; each is timed."""
HELD_OUT = 0.5
"""Share of web images that the small run holds out where the run does, so that there are enough to calibrate
with."""
NO_CHECKPOINT = 10**9


def probe_config(config: Config, steps: int) -> Config:
    """The config of the small run; the manifests are drawn from where its index is made.

    Args:
        steps: of each training.
    """
    held_out = HELD_OUT if config.pretrain is not None and config.pretrain.hold_out else 0.0
    pretrain = _shorten(config.pretrain, steps)
    pretrain = None if pretrain is None else pretrain.model_copy(update={"hold_out": held_out})
    captioner = {"finetune": _shorten(config.captioner.finetune, steps)}
    filter_ = {"finetune": _shorten(config.filter.finetune, steps)}
    sources = {name: source.model_copy(update={"parts": 1}) for name, source in config.sources.items()}
    run = {
        "dir": probe_folder(config),
        "rounds": min(1, config.run.rounds),
        "max_failed_fraction": 1.0,
    }
    changes = {
        "run": config.run.model_copy(update=run),
        "sources": sources,
        "tasks": {},
        "pretrain": pretrain,
        "captioner": config.captioner.model_copy(update=captioner),
        "filter": config.filter.model_copy(update=filter_),
        "verdicts": DEFAULT_VERDICTS,
        "export": config.export and config.export.model_copy(update={"out": None}),
        "cluster": _one_process_each(config.cluster),
    }
    return config.model_copy(update=changes)


def probe_folder(config: Config) -> str:
    """Where the small run is made: beside the run directory."""
    return f"{config.run.dir.rstrip('/')}{SUFFIX}"


def _one_process_each(cluster: ClusterConfig) -> ClusterConfig:
    """The same with one process of each stage; captioner and filter share one where they may in the run."""
    both, each = (1, None) if cluster.may_fuse else (None, 1)
    return replace(
        cluster,
        fetch_actors=1,
        model_actors=both,
        caption_actors=each,
        filter_actors=each,
        actors=ActorsConfig(),
    )


def _shorten(train: TrainSection | None, steps: int) -> TrainSection | None:
    if train is None:
        return None
    most = train.steps or steps
    workers = replace(
        train.workers, checkpoint_every=NO_CHECKPOINT, log_every=max(1, min(steps, most) // PIECES)
    )
    return train.model_copy(update={"steps": min(steps, most), "epochs": None, "workers": workers})
