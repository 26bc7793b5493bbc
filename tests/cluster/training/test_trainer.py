"""The loop of a training worker, and what becomes of a learner's stop. Without a running Ray."""

import json
import pickle
from pathlib import Path
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
from capfilt.cluster.training import trainer as module
from capfilt.cluster.training.rescue import FILE_LIST, write_file_list
from capfilt.cluster.training.trainer import LocalTrainingStop, TrainingStopped, TrainJob, fit

CALLS = []
"""(method, step) of the calls that learners received."""


class Learner:
    """Counts its steps; raises `error` in step `bad_step`."""

    def __init__(self, total_steps=3, error=None, bad_step=2):
        self.step, self.total_steps = 0, total_steps
        self.error, self.bad_step = error, bad_step

    def train_step(self):
        if self.error is not None and self.step + 1 == self.bad_step:
            raise self.error
        self.step += 1
        return lambda: {"loss": 1.0 / self.step}

    def throughput(self, steps_per_second):
        return {"samples_per_second": 8 * steps_per_second}

    def flush_metrics(self):
        CALLS.append(("flush", self.step))

    def save(self, folder):
        CALLS.append(("save", self.step))
        Path(folder, "state").write_text(str(self.step))

    def load(self, folder):
        self.step = int(Path(folder, "state").read_text())
        CALLS.append(("load", self.step))

    def finish(self):
        CALLS.append(("finish", self.step))


def make_job(folder, learner=None, *, board=None, recovered=None, **workers):
    return TrainJob(
        node="pretrain.0",
        name="pretrain.0-abc",
        storage_path=str(folder),
        workers=WorkersConfig(workers=2, max_failures=3, **workers),
        gpus_per_worker=0.0,
        build=lambda worker: learner,
        board=board,
        recovered_checkpoint=recovered,
    )


class Board:
    def __init__(self):
        self.posts = []

    def post(self, node, **values):
        self.posts.append((node, values))


@pytest.fixture(autouse=True)
def feeds(monkeypatch):
    """The feeds that `fit` makes, with whether they are closed."""
    made = []

    class Feed:
        def __init__(self):
            self.is_closed = False
            made.append(self)

        def close(self):
            self.is_closed = True

    monkeypatch.setattr(module, "Feed", Feed)
    return made


@pytest.fixture
def worker(monkeypatch):
    """Run `train_loop` as one of two workers; what it reports to Ray Train is in `reports`."""
    CALLS.clear()
    reports = []

    def report(metrics, checkpoint=None, checkpoint_dir_name=None):
        files = None
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                files = {path.name: path.read_text() for path in Path(folder).iterdir()}
        reports.append((metrics, checkpoint_dir_name, files))

    def run(job, rank, checkpoint=None):
        context = SimpleNamespace(get_world_rank=lambda: rank, get_world_size=lambda: 2)
        monkeypatch.setattr(ray.train, "get_context", lambda: context)
        monkeypatch.setattr(ray.train, "get_checkpoint", lambda: checkpoint)
        monkeypatch.setattr(ray.train, "report", report)
        monkeypatch.setattr(ray.train.torch, "get_device", lambda: torch.device("cpu"))
        # The board of a test records in this process, where a pickled one would be a copy.
        monkeypatch.setattr(ray.cloudpickle, "loads", lambda data: data)
        threads = torch.get_num_threads()
        try:
            module.train_loop({"job": job})
        finally:
            torch.set_num_threads(threads)

    return SimpleNamespace(run=run, reports=reports)


def test_checkpoints_are_saved_at_their_interval_but_not_after_the_last_step(tmp_path, worker):
    worker.run(make_job(tmp_path, Learner(6), checkpoint_every=2), rank=0)
    assert CALLS == [
        ("flush", 2),
        ("save", 2),
        ("flush", 4),
        ("save", 4),
        ("flush", 6),
        ("finish", 6),
    ]
    assert [(metrics["steps"], name) for metrics, name, _ in worker.reports] == [
        (2, "step_000000002"),
        (4, "step_000000004"),
        (6, None),
    ]
    for _, _, files in worker.reports[:2]:
        assert json.loads(files.pop(FILE_LIST)) == {"state": 1}
        assert list(files) == ["state"]


def test_other_workers_report_the_same_steps_without_writing(tmp_path, worker):
    worker.run(make_job(tmp_path, Learner(6), checkpoint_every=2), rank=1)
    assert CALLS == [("flush", 2), ("flush", 4), ("flush", 6)]
    assert worker.reports == [
        ({"steps": 2}, "step_000000002", None),
        ({"steps": 4}, "step_000000004", None),
        ({"steps": 6}, None, None),
    ]


def save_state(folder, step):
    folder.mkdir()
    (folder / "state").write_text(str(step))
    write_file_list(str(folder))
    return str(folder)


def test_ray_s_checkpoint_is_preferred_to_a_recovered_one(tmp_path, worker):
    known = ray.train.Checkpoint(save_state(tmp_path / "known", 4))
    recovered = save_state(tmp_path / "recovered", 2)
    worker.run(make_job(tmp_path, Learner(5), recovered=recovered), rank=0, checkpoint=known)
    assert CALLS[0] == ("load", 4)
    CALLS.clear()
    worker.run(make_job(tmp_path, Learner(5), recovered=recovered), rank=0)
    assert CALLS[0] == ("load", 2)


def test_progress_is_posted_at_most_once_a_second_and_for_the_last_step(tmp_path, worker, monkeypatch):
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: clock.now)

    class Timed(Learner):
        def train_step(self):
            clock.now += 0.5
            return super().train_step()

    board = Board()
    worker.run(make_job(tmp_path, Timed(6), board=board), rank=0)
    assert {node for node, _ in board.posts} == {"pretrain.0"}
    first, *steps = [values for _, values in board.posts]
    assert first["total"] == 6 and first["pid"] > 0
    assert [values["step"] for values in steps] == [1, 3, 5, 6]
    assert steps[1] == {
        "step": 3,
        "total": 6,
        "steps_per_second": 2.0,
        "samples_per_second": 16.0,
        "loss": 1 / 3,
    }
    board.posts.clear()
    worker.run(make_job(tmp_path, Learner(6), board=board), rank=1)
    assert board.posts == []


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, 1), (1, 1), (3, 3)])
def test_a_worker_on_cpus_has_as_many_threads_as_cpus(tmp_path, worker, cpus, threads):
    class RecordsThreads(Learner):
        def train_step(self):
            CALLS.append(("threads", torch.get_num_threads()))
            return super().train_step()

    worker.run(make_job(tmp_path, RecordsThreads(1), cpus_per_worker=cpus), rank=1)
    assert CALLS[0] == ("threads", threads)


def test_a_stop_on_all_workers_is_reported_as_a_result(tmp_path, worker):
    worker.run(make_job(tmp_path, Learner(error=TrainingStopped("the loss is nan"))), rank=1)
    assert worker.reports == [({"steps": 1, "stopped": "the loss is nan"}, None, None)]


def test_a_stop_of_one_worker_does_not_wait_for_the_others(tmp_path, worker):
    with pytest.raises(LocalTrainingStop, match="out of memory"):
        worker.run(make_job(tmp_path, Learner(error=LocalTrainingStop("out of memory"))), rank=1)
    assert worker.reports == [] and CALLS == []


def ray_decision(error):
    """What Ray Train does when the second of two workers raises an error while the first waits for it."""
    sent = pickle.loads(pickle.dumps(construct_user_exception_with_traceback(error)))
    status = WorkerGroupPollStatus(
        {0: WorkerStatus(running=True), 1: WorkerStatus(running=False, error=sent)}
    )
    try:
        UserCallbackHandler([module._AbortOnLocalStop()], None).after_worker_group_poll_status(status)
    except Exception as raised:  # as its controller does
        failure = ray.train.ControllerError(raised)
    else:
        failure = status.get_worker_group_error()
    return DefaultFailurePolicy(FailureConfig(max_failures=3)).make_decision(failure), failure


def test_a_stop_of_one_worker_is_never_retried():
    decision, failure = ray_decision(LocalTrainingStop("out of memory"))
    assert decision == FailureDecision.RAISE
    assert isinstance(pickle.loads(pickle.dumps(failure)).controller_failure, LocalTrainingStop)


@pytest.mark.parametrize(
    "error", [RuntimeError("NCCL timed out"), torch.OutOfMemoryError("while it started")]
)
def test_any_other_error_of_a_worker_is_retried(error):
    decision, _ = ray_decision(error)
    assert decision == FailureDecision.RETRY


def trainer_with(outcome):
    """A class that stands for Ray's trainer, whose `fit` returns or raises `outcome`."""

    class Trainer:
        def __init__(self, *args, run_config, **options):
            Trainer.run_config, Trainer.options = run_config, options

        def fit(self):
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    return Trainer


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (ray.train.ControllerError(LocalTrainingStop("out of memory")), TrainingStopped, "^out of memory$"),
        (ray.train.ControllerError(OSError("no space")), ray.train.ControllerError, "no space"),
        (ray.train.WorkerGroupError("killed", {0: OSError("x")}), ray.train.WorkerGroupError, "killed"),
    ],
    ids=["stop", "controller", "worker"],
)
def test_a_stop_reaches_the_driver_as_itself(tmp_path, monkeypatch, feeds, failure, kind, text):
    trainer = trainer_with(failure)
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainer)
    with pytest.raises(kind, match=text):
        fit(make_job(tmp_path))
    assert [type(callback) for callback in trainer.run_config.callbacks] == [module._AbortOnLocalStop]
    assert [feed.is_closed for feed in feeds] == [True]


def test_a_stop_on_all_workers_is_raised_in_the_driver(tmp_path, monkeypatch):
    result = SimpleNamespace(metrics={"steps": 2, "stopped": "the loss is nan"})
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainer_with(result))
    with pytest.raises(TrainingStopped, match=r"^the loss is nan$"):
        fit(make_job(tmp_path))


@pytest.mark.parametrize(("gpus", "resources"), [(0.0, {"CPU": 2}), (0.5, {"CPU": 2, "GPU": 0.5})])
def test_workers_request_what_the_job_says(tmp_path, monkeypatch, feeds, gpus, resources):
    trainer = trainer_with(SimpleNamespace(metrics=None))
    monkeypatch.setattr(ray.train.torch, "TorchTrainer", trainer)
    monkeypatch.setattr(ray.cloudpickle, "dumps", lambda job: job)
    job = TrainJob(
        node="pretrain.0",
        name="pretrain.0-abc",
        storage_path=str(tmp_path),
        workers=WorkersConfig(workers=3, cpus_per_worker=2, max_failures=5),
        gpus_per_worker=gpus,
        build=Learner,
    )
    fit(job)
    scaling = trainer.options["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu) == (3, gpus > 0)
    assert scaling.resources_per_worker == resources
    assert trainer.run_config.failure_config.max_failures == 5
    assert trainer.run_config.checkpoint_config.num_to_keep == 2
    assert trainer.options["train_loop_config"]["job"].feed is feeds[0] and feeds[0].is_closed
