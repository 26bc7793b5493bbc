"""Metrics of steps are read together, averaged over workers, and logged by rank 0."""

import math
from dataclasses import replace

import pytest
import torch

from capfilt.cluster.config import WorkersConfig
from capfilt.cluster.training.trainer import TrainingStopped, Worker
from capfilt.pipeline.training import step_metrics as module
from capfilt.pipeline.training.step_metrics import StepMetrics, read_metrics
from capfilt.stages.pairs.stream import EpochBytes
from capfilt.stages.storage.store import Store
from tests.pipeline.training.training_scene import WORKER
from tests.step_logs import read_steps

LOG_EVERY = WorkersConfig().log_every
READ = EpochBytes(read=2.5e6, received=4_000_000)


@pytest.fixture
def spec(scene, tmp_path):
    return replace(scene.spec(), run_dir=Store(str(tmp_path)))


def losses(value):
    return {"loss": torch.tensor(value), "itc": torch.tensor(2 * value)}


def logged(spec):
    return read_steps(spec.run_dir / f"logs/{spec.node}")


def test_steps_are_read_together(spec, monkeypatch):
    """Each read waits for the device."""
    reads = []
    original = module.sum_over_workers
    monkeypatch.setattr(module, "sum_over_workers", lambda table: reads.append(len(table)) or original(table))
    metrics = StepMetrics(spec, WORKER)
    for step in range(1, 2 * LOG_EVERY + 4):
        metrics.add(step, 0.1, losses(1.0), READ)
    assert reads == [LOG_EVERY] * 2
    metrics.log_pending(flush=True)
    assert reads == [LOG_EVERY, LOG_EVERY, 3]
    metrics.log_pending(flush=True)
    assert len(reads) == 3
    assert [row["step"] for row in logged(spec)] == list(range(1, 2 * LOG_EVERY + 4))


def test_the_config_says_how_many_steps_are_read_together(spec):
    workers = WorkersConfig(log_every=3)
    spec = replace(spec, train=spec.train.model_copy(update={"workers": workers}))
    metrics = StepMetrics(spec, WORKER)
    for step in range(1, 8):
        metrics.add(step, 0.1, losses(1.0), READ)
    metrics.log_pending(flush=True)
    times = [row["time"] for row in logged(spec)]
    assert [times.index(each) for each in times] == [0, 0, 0, 3, 3, 3, 6]


def test_a_row_has_losses_rate_epoch_and_speed(spec):
    metrics = StepMetrics(spec, WORKER)
    metrics.step_flops, metrics.peak_flops = 6.0, 3.0
    metrics.add(4, 0.25, losses(1.5), READ)
    metrics.log_pending(flush=True)
    (row,) = logged(spec)
    assert row["mfu"] / row["samples_per_second"] == pytest.approx(6.0 / 3.0 / 8)
    assert row.pop("time") > 0 and row.pop("samples_per_second") > 0 and row.pop("mfu") > 0
    read = {"epoch_read_mb": 2.5, "epoch_received_mb": 4.0}
    assert row == {"step": 4, "epoch": 4 / 3, "loss": 1.5, "itc": 3.0, "lr": 0.25, **read}


def test_losses_are_means_over_workers(spec, monkeypatch):
    monkeypatch.setattr(module, "sum_over_workers", lambda table: table + 3 * table)
    monkeypatch.setattr(module, "world", lambda: (0, 2))
    metrics = StepMetrics(spec, WORKER)
    metrics.add(1, 0.1, losses(1.0), READ)
    metrics.log_pending(flush=True)
    assert logged(spec)[0]["loss"] == 2.0
    assert logged(spec)[0]["epoch_read_mb"] == 5.0


def test_only_rank_0_writes(spec):
    metrics = StepMetrics(spec, Worker(1, 2, WORKER.device))
    metrics.add(1, 0.1, losses(1.0), READ)
    metrics.log_pending(flush=True)
    assert logged(spec) == []


def test_repeated_steps_replace_those_of_the_log(spec):
    for value in (1.0, 2.0):
        metrics = StepMetrics(spec, WORKER)
        for step in (1, 2):
            metrics.add(step, 0.1, losses(value), READ)
            metrics.log_pending(flush=True)
    assert [(row["step"], row["loss"]) for row in logged(spec)] == [(1, 2.0), (2, 2.0)]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training_and_is_logged(spec, bad):
    metrics = StepMetrics(spec, WORKER)
    metrics.add(1, 0.1, losses(1.0), READ)
    metrics.add(2, 0.1, losses(bad), READ)
    metrics.add(3, 0.1, losses(1.0), READ)
    message = (
        rf"^pretrain.0: the loss is {bad:g} at step 2 \(itc {bad:g}\); lower pretrain.optimizer.lr, raise "
        r"pretrain.optimizer.warmup_steps, or set pretrain.optimizer.clip_grad$"
    )
    with pytest.raises(TrainingStopped, match=message):
        metrics.log_pending()
    assert [row["step"] for row in logged(spec)] == [1, 2]


def test_utilization_needs_both_figures(spec):
    metrics = StepMetrics(spec, WORKER)
    assert metrics.throughput(2.0) == {"samples_per_second": 16.0}
    metrics.step_flops = 5.0
    assert metrics.throughput(2.0) == {"samples_per_second": 16.0}
    metrics.peak_flops = 40.0
    assert metrics.throughput(2.0) == {"samples_per_second": 16.0, "mfu": 0.25}


def test_metrics_are_read_as_numbers():
    assert read_metrics(losses(1.5), 0.1) == {"loss": 1.5, "itc": 3.0, "lr": 0.1}
