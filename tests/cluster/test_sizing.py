import pytest

from capfilt.cluster.chain.watchdog import Limits
from capfilt.cluster.config import ClusterConfig, ClusterError
from capfilt.cluster.sizing import divide, limit


@pytest.mark.parametrize("cpus", [1, 2, 4, 8, 16, 64])
def test_cpu_cluster_leaves_cpus_for_reading_and_writing(cpus):
    sizing = divide(ClusterConfig(), cpus=cpus, gpus=0)
    held = sum(s.actors * s.cpus for s in (sizing.fetch, sizing.caption, sizing.filter))
    assert sizing.caption.gpus == sizing.filter.gpus == 0
    assert 0 < held <= cpus * 0.8


def test_one_gpu_is_shared_by_captioner_and_filter():
    sizing = divide(ClusterConfig(), cpus=16, gpus=1)
    assert (sizing.caption.actors, sizing.filter.actors, sizing.caption.gpus) == (1, 1, 0.5)


@pytest.mark.parametrize(("gpus", "caption", "judge"), [(2, 1, 1), (4, 3, 1), (8, 5, 3), (32, 20, 12)])
def test_all_gpus_are_used_and_most_caption(gpus, caption, judge):
    sizing = divide(ClusterConfig(), cpus=128, gpus=gpus)
    assert (sizing.caption.actors, sizing.filter.actors, sizing.caption.gpus) == (caption, judge, 1.0)


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(ClusterError, match="need 5 GPUs, the cluster has 4"):
        divide(ClusterConfig(caption_actors=4, filter_actors=1), cpus=16, gpus=4)
    with pytest.raises(ClusterError, match="no GPU"):
        divide(ClusterConfig(gpus_per_actor=1), cpus=16, gpus=0)


def test_limits_of_a_cluster():
    nodes = [4e9, 16e9, 16e9]
    assert limit(ClusterConfig(), nodes) == Limits(stall_seconds=900, memory=16_000_000_000)
    assert limit(ClusterConfig(stall_seconds=0, worker_memory_gb=2.5), nodes) == Limits(memory=2_500_000_000)
    assert limit(ClusterConfig(), []) == Limits(stall_seconds=900)
