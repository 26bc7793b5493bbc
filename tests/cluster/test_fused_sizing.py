"""When captioner and filter share actors, and how many there are."""

import subprocess
from types import SimpleNamespace

import pytest

from capfilt.cluster import machines, nodes, threads
from capfilt.cluster import sizing as module
from capfilt.cluster.config import ActorRange, ActorsConfig, ClusterConfig, ClusterError
from capfilt.cluster.sizing import (
    ActorPool,
    ModelLoad,
    Split,
    can_grow,
    divide_cluster,
    divide_resources,
    fits_together,
)

GIB = 1 << 30


def limits(**stages):
    return ActorsConfig(**{name: ActorRange(min=low, max=high) for name, (low, high) in stages.items()})


@pytest.mark.parametrize(
    ("gpus", "config", "actors", "each"),
    [
        (1, {}, 1, 1.0),
        (4, {}, 4, 1.0),
        (0.5, {}, 1, 0.5),
        (7, {"gpus_per_actor": 0.28}, 25, 0.28),
        (3, {"gpus_per_actor": 0.5}, 6, 0.5),
        (8, {"gpus_per_actor": 2}, 4, 2.0),
        (8, {"model_actors": 3}, 3, 1.0),
        (8, {"model_actors": 8}, 8, 1.0),
        (8, {"actors": limits(model=(2, 5))}, 5, 1.0),
        (8, {"actors": limits(fetch=(1, 2))}, 8, 1.0),
    ],
)
def test_actors_with_both_models_on_gpus(gpus, config, actors, each):
    sizing = divide_resources(ClusterConfig(**config), cpus=64, gpus=gpus)
    assert sizing.split.fused and sizing.caption is sizing.filter
    assert sizing.caption == ActorPool(actors, 0.0, each)


@pytest.mark.parametrize(
    ("cpus", "actors", "each"),
    [(1, 1, 0.625), (2, 1, 1.0), (3, 2, 0.9375), (4, 2, 1.0), (5, 3, 1.0), (8, 5, 1.0), (64, 40, 1.0)],
)
def test_actors_with_both_models_on_cpus(cpus, actors, each):
    sizing = divide_resources(ClusterConfig(), cpus=cpus, gpus=0)
    assert sizing.split.fused and sizing.caption == sizing.filter == ActorPool(actors, each, 0.0)
    requested = sizing.fetch.actors * sizing.fetch.cpus + actors * each
    assert requested <= 0.75 * cpus, "a quarter is left for tasks that read and write"
    given = divide_resources(ClusterConfig(model_actors=10), cpus=cpus, gpus=0)
    assert given.caption.actors == 10 and given.caption.cpus * 10 <= 0.75 * cpus


@pytest.mark.parametrize(
    ("cpus", "shards", "actors", "each"),
    [
        (16, None, 10, 1.0),
        (16, 11, 10, 1.0),
        (16, 10, 10, 1.0),
        (16, 6, 6, 1.0),
        (16, 5, 5, 2.0),
        (16, 4, 4, 2.0),
        (16, 3, 3, 3.0),
        (16, 1, 1, 8.0),
        (64, 1, 1, 8.0),
        (16, 0, 1, 8.0),
        (4, 1, 1, 2.0),
        (2, 1, 1, 1.0),
        (1, 1, 1, 0.625),
    ],
)
def test_actors_on_cpus_have_several_where_there_are_few_shards(cpus, shards, actors, each):
    sizing = divide_resources(ClusterConfig(), cpus=cpus, gpus=0, split=Split(fused=True, shards=shards))
    assert sizing.caption == sizing.filter == ActorPool(actors, each, 0.0)
    assert sizing.fetch.actors * sizing.fetch.cpus + actors * each <= 0.75 * cpus
    assert not can_grow(ClusterConfig(), sizing, sizing.resources), "a pass would end at once"


def test_an_actor_has_no_more_cpus_than_a_machine():
    split = Split(fused=True, shards=1, most_cpus=3)
    assert divide_resources(ClusterConfig(), cpus=64, gpus=0, split=split).caption == ActorPool(1, 3.0, 0.0)


@pytest.mark.parametrize(("shards", "actors"), [(None, 4), (5, 4), (4, 4), (3, 3), (1, 1), (0, 1)])
def test_there_is_no_gpu_actor_without_a_shard(shards, actors):
    split = Split(fused=True, shards=shards)
    sizing = divide_resources(ClusterConfig(), cpus=16, gpus=4, split=split)
    assert sizing.caption == sizing.filter == ActorPool(actors, 0.0, 1.0)
    assert not can_grow(ClusterConfig(), sizing, {"CPU": 16.0, "GPU": 4.0}), "a pass would end at once"


@pytest.mark.parametrize("config", [{"model_actors": 3}, {"actors": limits(model=(3, None))}])
def test_numbers_of_the_config_count_also_where_there_are_fewer_shards(config):
    for gpus, pool in ((0, ActorPool(3, 1.0, 0.0)), (4, ActorPool(3, 0.0, 1.0))):
        split = Split(fused=True, shards=1)
        sizing = divide_resources(ClusterConfig(**config), cpus=6, gpus=gpus, split=split)
        assert sizing.caption == pool


def test_more_gpus_than_the_cluster_has_are_refused():
    line = (
        "cluster: 5 actors with captioner and filter, with 1 GPU each, need 5 GPUs, the cluster has 4; lower "
        "{} or cluster.gpus_per_actor"
    )
    with pytest.raises(ClusterError) as refused:
        divide_resources(ClusterConfig(model_actors=5), cpus=16, gpus=4)
    assert str(refused.value) == line.format("cluster.model_actors")
    with pytest.raises(ClusterError) as refused:
        divide_resources(ClusterConfig(actors=limits(model=(5, None))), cpus=16, gpus=4)
    assert str(refused.value) == line.format("cluster.actors.model.min")
    with pytest.raises(ClusterError, match="gpus_per_actor is 1, but the cluster has no GPU; remove the key"):
        divide_resources(ClusterConfig(gpus_per_actor=1), cpus=16, gpus=0)


@pytest.mark.parametrize(
    "config",
    [
        {"fuse": "never"},
        {"caption_actors": 1},
        {"filter_actors": 1},
        {"caption_actors": 2, "filter_actors": 2},
        {"actors": limits(captioner=(1, 2))},
        {"actors": limits(filter=(2, None))},
    ],
)
def test_models_whose_numbers_are_given_have_actors_of_their_own(config):
    config = ClusterConfig(**config)
    assert not config.may_fuse and not divide_resources(config, cpus=64, gpus=4).split.fused
    assert not divide_resources(config, cpus=64, gpus=0).split.fused


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"model_actors": 2, "caption_actors": 1}, "model_actors and caption_actors are both given"),
        ({"model_actors": 2, "actors": limits(filter=(1, 2))}, "model_actors and actors.filter are both"),
        ({"actors": limits(model=(1, 2)), "filter_actors": 1}, "actors.model and filter_actors are both"),
        ({"actors": limits(model=(1, 2)), "model_actors": 1}, "model_actors and actors.model are both"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(config, line):
    with pytest.raises(ValueError, match=f"{line}.*remove one of them"):
        ClusterConfig(**config)


@pytest.mark.parametrize(
    ("pool", "memory", "most"),
    [
        (ActorPool(4, 0.0, 1.0), 16 * GIB, 8 * GIB),
        (ActorPool(4, 0.0, 0.5), 16 * GIB, 4 * GIB),
        (ActorPool(4, 0.0, 2.0), 16 * GIB, 8 * GIB),  # a model is on one of them
        (ActorPool(4, 1.0, 0.0), 16 * GIB, 2 * GIB),
        (ActorPool(1, 1.0, 0.0), 16 * GIB, 8 * GIB),
    ],
)
def test_weights_take_at_most_half_of_the_memory_of_an_actor(pool, memory, most):
    assert fits_together(most, pool, memory) and not fits_together(most + 1, pool, memory)
    assert fits_together(1000 * GIB, pool, None), "unknown"


@pytest.fixture
def cluster(monkeypatch):
    """Sets the resources of the connected cluster."""

    def be(gpus, gpu_memory=None, node_memory=(8 * GIB, 24 * GIB)):
        found = [{"Resources": {"memory": size}} for size in node_memory] + [{"Resources": {}}]
        monkeypatch.setattr(machines.ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": gpus})
        monkeypatch.setattr(module.ray, "nodes", lambda: found)
        monkeypatch.setattr(module, "smallest_gpu_memory", lambda: gpu_memory)

    return be


@pytest.mark.parametrize(
    ("gpus", "gpu_memory", "weights", "fused"),
    [
        (4.0, 16 * GIB, 8 * GIB, True),
        (4.0, 16 * GIB, 8 * GIB + 1, False),
        (4.0, None, 99 * GIB, True),
        (4.0, 16 * GIB, None, True),
        (0.0, None, 32 * GIB // 20, True),  # ten actors on 32 GB
        (0.0, None, 32 * GIB // 20 + 1, False),
    ],
)
def test_models_that_do_not_fit_beside_each_other_have_actors_of_their_own(
    cluster, gpus, gpu_memory, weights, fused
):
    cluster(gpus, gpu_memory)
    sizing = divide_cluster(ClusterConfig(), ModelLoad(weights=weights, caption_share=0.75))
    assert sizing.split.fused is fused
    if gpus and not fused:
        assert (sizing.caption.actors, sizing.filter.actors) == (3, 1), "by the seconds of shards"
    assert sizing.limits.memory == 24 * GIB
    assert not divide_cluster(ClusterConfig(fuse="never"), ModelLoad(weights=1)).split.fused


@pytest.mark.parametrize(
    ("machines", "shards", "pool"),
    [
        ([16], 1, (1, 8.0)),
        ([16], 3, (3, 3.0)),
        ([8, 8], 1, (1, 6.0)),
        ([12, 4], 2, (2, 3.0)),
        ([4] * 4, 9, (9, 1.0)),
    ],
)
def test_the_smallest_machine_has_the_cpus_of_its_actors(cluster, monkeypatch, machines, shards, pool):
    cluster(0.0)
    nodes = [{"Alive": True, "Resources": {"CPU": float(cpus)}} for cpus in machines]
    monkeypatch.setattr(module.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(64)))
    sizing = divide_cluster(ClusterConfig(), shards=shards)
    assert (sizing.caption.actors, sizing.caption.cpus) == pool
    assert not can_grow(ClusterConfig(), sizing, sizing.resources)


def test_before_the_first_shard_separate_actors_are_divided_evenly(cluster):
    cluster(4.0)
    for models in (None, ModelLoad(), ModelLoad(weights=1)):
        sizing = divide_cluster(ClusterConfig(fuse="never"), models)
        assert (sizing.caption.actors, sizing.filter.actors) == (2, 2)
    assert divide_cluster(ClusterConfig(), None).split.fused


def test_memory_of_gpus_is_only_asked_for_where_it_matters(cluster, monkeypatch):
    cluster(4.0)
    monkeypatch.setattr(module, "smallest_gpu_memory", lambda: pytest.fail("asked"))
    divide_cluster(ClusterConfig())
    divide_cluster(ClusterConfig(fuse="never"), ModelLoad(weights=1))
    divide_cluster(ClusterConfig(), ModelLoad())


def test_filters_alone_take_all_actors():
    for gpus in (0, 1, 4):
        sizing = divide_resources(ClusterConfig(), cpus=16, gpus=gpus)
        assert sizing.without_captioners(ClusterConfig()) == sizing


@pytest.mark.parametrize(
    ("resources", "grows"),
    [
        ({"CPU": 64.0, "GPU": 4.0}, False),
        ({"CPU": 64.0, "GPU": 5.0}, True),
        ({"CPU": 64.0, "GPU": 3.0}, False),
        ({"CPU": 68.0, "GPU": 4.0}, True),  # one more that fetches
    ],
)
def test_a_chain_grows_with_the_cluster(resources, grows):
    sizing = divide_resources(ClusterConfig(), cpus=64, gpus=4)
    assert can_grow(ClusterConfig(), sizing, resources) is grows


def test_a_chain_that_was_not_fused_is_compared_with_one_that_is_not():
    apart = divide_resources(ClusterConfig(), cpus=64, gpus=4, split=Split(caption_share=0.75))
    assert not can_grow(ClusterConfig(), apart, apart.resources)
    assert can_grow(ClusterConfig(), apart, {"CPU": 64.0, "GPU": 8.0})


def test_smallest_gpu_of_the_nodes_counts(monkeypatch):
    monkeypatch.setattr(nodes, "ask_each_node", lambda ask: [("a", 5), ("b", None), ("c", 3)])
    assert nodes.smallest_gpu_memory() == 3
    monkeypatch.setattr(nodes, "ask_each_node", lambda ask: [("a", None)])
    assert nodes.smallest_gpu_memory() is None

    def fail(ask):
        raise ClusterError("a node did not answer")

    monkeypatch.setattr(nodes, "ask_each_node", fail)
    assert nodes.smallest_gpu_memory() is None


@pytest.mark.parametrize(
    ("answer", "memory"),
    [("24576\n16384\n", 16 * GIB), ("", None), ("[N/A]\n", None), (OSError("no such file"), None)],
)
def test_memory_of_a_gpu_is_that_of_the_driver(monkeypatch, answer, memory):
    def run(command, **options):
        assert command[0] == "nvidia-smi" and options["timeout"] > 0 and options["check"]
        if isinstance(answer, OSError):
            raise answer
        return SimpleNamespace(stdout=answer)

    monkeypatch.setattr(subprocess, "run", run)
    assert nodes.read_gpu_memory() == memory
