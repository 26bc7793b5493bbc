"""A stop of one worker ends a training at once, although the other workers wait for that worker."""

from functools import partial
from uuid import uuid4

import pytest
import torch.distributed as dist

from capfilt.cluster.config import WorkersConfig
from capfilt.cluster.training.trainer import LocalTrainingStop, TrainingStopped, TrainJob, fit


class StopsOnRank1:
    """A learner whose second worker runs out of memory while the first waits for it."""

    step, total_steps = 0, 2

    def __init__(self, rank):
        self.rank = rank

    def train_step(self):
        if self.rank == 1:
            raise LocalTrainingStop("pretrain.0: out of memory with 8 pairs")
        dist.barrier()
        raise AssertionError("the second worker reached the barrier")


def build(starts, worker):
    (starts / f"{worker.rank}-{uuid4()}").touch()
    return StopsOnRank1(worker.rank)


def test_a_stop_of_one_worker_ends_the_training_of_all(ray_session, tmp_path):
    starts = tmp_path / "starts"
    starts.mkdir()
    job = TrainJob(
        node="pretrain.0",
        name="stops",
        storage_path=str(tmp_path / "train"),
        workers=WorkersConfig(workers=2, max_failures=3),
        gpus_per_worker=0.0,
        build=partial(build, starts),
    )
    with pytest.raises(TrainingStopped, match=r"^pretrain\.0: out of memory with 8 pairs$"):
        fit(job)
    assert sorted(path.name[0] for path in starts.iterdir()) == ["0", "1"], "the training was retried"
