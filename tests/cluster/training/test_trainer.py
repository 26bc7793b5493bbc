"""Verdicts of learners on their training: final, also where one worker alone has one. Without a running Ray."""

import pickle
from types import SimpleNamespace

import pytest
import ray.train
import torch
from ray.train import FailureConfig
from ray.train.v2._internal.callbacks.user_callback import UserCallbackHandler
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2._internal.execution.worker_group.poll import WorkerGroupPollStatus, WorkerStatus
from ray.train.v2._internal.util import construct_user_exception_with_traceback

from capfilt.cluster.config import WorkersConfig
from capfilt.cluster.training import trainer as train
from capfilt.cluster.training.trainer import LocalTrainingStop, TrainingStopped, TrainJob, fit


class Learner:
    """Raises in its second step."""

    step, total_steps = 0, 3

    def __init__(self, error):
        self.error = error

    def train_step(self):
        if self.step == 1:
            raise self.error
        self.step += 1
        return dict


def job(folder, error=None):
    return TrainJob(
        node="pretrain.0",
        name="pretrain.0-abc",
        storage=str(folder),
        workers=WorkersConfig(workers=2, max_failures=3),
        gpus=0.0,
        build=lambda worker: Learner(error),
    )


@pytest.fixture
def reported(monkeypatch):
    """What a training worker reports to Ray Train; it is the second of two."""
    found = []
    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(ray.train, "report", found.append)
    monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
    return found


def work(folder, error):
    threads = torch.get_num_threads()
    try:
        train._train({"job": ray.cloudpickle.dumps(job(folder, error))})
    finally:
        torch.set_num_threads(threads)


def test_a_verdict_on_all_workers_is_reported(tmp_path, reported):
    work(tmp_path, TrainingStopped("the loss is nan"))
    assert reported == [{"steps": 1, "stopped": "the loss is nan"}]


def test_a_verdict_of_one_worker_waits_for_no_other(tmp_path, reported):
    with pytest.raises(LocalTrainingStop, match="out of memory"):
        work(tmp_path, LocalTrainingStop("out of memory"))
    assert reported == []


def decision_of_ray(error):
    """What Ray Train does when the second of two workers raises this and the first waits for it."""
    sent = pickle.loads(pickle.dumps(construct_user_exception_with_traceback(error)))
    status = WorkerGroupPollStatus(
        {0: WorkerStatus(running=True), 1: WorkerStatus(running=False, error=sent)}
    )
    try:
        UserCallbackHandler([train._EndAtOnce()], None).after_worker_group_poll_status(status)
    except Exception as raised:  # as its controller does
        failure = ray.train.ControllerError(raised)
    else:
        failure = status.get_worker_group_error()
    return DefaultFailurePolicy(FailureConfig(max_failures=3)).make_decision(failure), failure


def test_a_verdict_of_one_worker_is_never_tried_again():
    decision, failure = decision_of_ray(LocalTrainingStop("out of memory"))
    assert decision == FailureDecision.RAISE
    assert isinstance(pickle.loads(pickle.dumps(failure)).controller_failure, LocalTrainingStop)


@pytest.mark.parametrize(
    "error", [RuntimeError("NCCL timed out"), torch.OutOfMemoryError("while it started")]
)
def test_any_other_error_of_a_worker_is_tried_again(error):
    decision, _ = decision_of_ray(error)
    assert decision == FailureDecision.RETRY


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (ray.train.ControllerError(LocalTrainingStop("out of memory")), TrainingStopped, "^out of memory$"),
        (ray.train.ControllerError(OSError("no space")), ray.train.ControllerError, "no space"),
        (ray.train.WorkerGroupError("killed", {0: OSError("x")}), ray.train.WorkerGroupError, "killed"),
    ],
    ids=["verdict", "controller", "worker"],
)
def test_the_driver_is_told_the_verdict(tmp_path, monkeypatch, failure, kind, text):
    class Trainer:
        def __init__(self, *args, run_config, **options):
            assert [type(callback) for callback in run_config.callbacks] == [train._EndAtOnce]

        def fit(self):
            raise failure

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    with pytest.raises(kind, match=text):
        fit(job(tmp_path))
