"""How a cluster's resources are divided among stages whose actors are their own."""

from functools import partial

import pytest

from capfilt.cluster import machines
from capfilt.cluster import sizing as module
from capfilt.cluster.chain.watchdog import Limits
from capfilt.cluster.config import ActorRange, ActorsConfig, ClusterError
from capfilt.cluster.config import ClusterConfig as AnyConfig
from capfilt.cluster.machines import FETCH_CPU, LEAVING, measure_machines
from capfilt.cluster.sizing import (
    ActorPool,
    Split,
    can_grow,
    divide_cluster,
    divide_resources,
    process_limits,
)

ClusterConfig = partial(AnyConfig, fuse="never")


def requested_cpus(sizing):
    return sum(pool.actors * pool.cpus for pool in (sizing.fetch, sizing.caption, sizing.filter))


@pytest.mark.parametrize("cpus", [1, 2, 3, 4, 6, 8, 16, 64])
def test_on_cpus_a_quarter_is_left_for_reading_and_writing(cpus):
    sizing = divide_resources(ClusterConfig(), cpus=cpus, gpus=0)
    assert sizing.caption.gpus == sizing.filter.gpus == 0
    assert requested_cpus(sizing) <= 0.75 * cpus + 1e-9
    # The actors do not leave much more than that unused.
    assert requested_cpus(sizing) >= min(0.75 * cpus - 1, 0.6 * cpus)


@pytest.mark.parametrize(
    ("cpus", "fetchers", "captioners", "filters"),
    [(2, 1, 1, 1), (4, 1, 1, 1), (6, 1, 2, 2), (8, 2, 3, 2), (16, 4, 5, 5), (64, 16, 20, 20)],
)
def test_actors_on_cpus(cpus, fetchers, captioners, filters):
    sizing = divide_resources(ClusterConfig(), cpus=cpus, gpus=0)
    assert (sizing.fetch.actors, sizing.caption.actors, sizing.filter.actors) == (
        fetchers,
        captioners,
        filters,
    )
    assert sizing.caption.cpus == sizing.filter.cpus <= 1.0


@pytest.mark.parametrize(("cpus", "each"), [(1, 0.125), (2, 0.25), (4, 0.5), (64, 0.5)])
def test_an_actor_that_fetches_requests_part_of_a_cpu(cpus, each):
    assert divide_resources(ClusterConfig(), cpus=cpus, gpus=0).fetch.cpus == each


def test_three_model_actors_are_one_captioner_and_one_filter():
    """Five CPUs leave room for three, of which one stays idle rather than give one model two actors."""
    sizing = divide_resources(ClusterConfig(), cpus=5, gpus=0)
    assert (sizing.caption.actors, sizing.filter.actors) == (1, 1)


def test_captioner_and_filter_share_a_single_gpu():
    sizing = divide_resources(ClusterConfig(), cpus=16, gpus=1)
    assert (sizing.caption.actors, sizing.filter.actors, sizing.caption.gpus) == (1, 1, 0.5)
    assert sizing.caption.cpus == sizing.filter.cpus == 0.0


@pytest.mark.parametrize(
    ("gpus", "captioners", "filters"), [(2, 1, 1), (3, 2, 1), (4, 2, 2), (8, 4, 4), (33, 17, 16)]
)
def test_all_gpus_are_used_and_before_any_shard_evenly(gpus, captioners, filters):
    sizing = divide_resources(ClusterConfig(), cpus=128, gpus=gpus)
    assert (sizing.caption.actors, sizing.filter.actors) == (captioners, filters)
    assert sizing.caption.gpus == sizing.filter.gpus == 1.0


@pytest.mark.parametrize("gpus", [2, 3, 5, 8, 16])
@pytest.mark.parametrize("share", [0.01, 0.2, 0.49, 0.6, 0.75, 0.9, 0.99])
def test_replicas_are_divided_so_that_the_slower_model_is_as_fast_as_possible(gpus, share):
    sizing = divide_resources(ClusterConfig(), cpus=64, gpus=gpus, split=Split(caption_share=share))
    captioners, filters = sizing.caption.actors, sizing.filter.actors
    assert captioners + filters == gpus and min(captioners, filters) >= 1
    best = min(max(share / n, (1 - share) / (gpus - n)) for n in range(1, gpus))
    assert max(share / captioners, (1 - share) / filters) == best
    on_cpus = divide_resources(ClusterConfig(), cpus=16, gpus=0, split=Split(caption_share=share))
    assert on_cpus.caption.actors + on_cpus.filter.actors == 10
    assert sizing.split.caption_share == on_cpus.split.caption_share == share


def test_the_config_determines_what_it_sets():
    config = ClusterConfig(fetch_actors=3, caption_actors=6, filter_actors=2, gpus_per_actor=0.25)
    sizing = divide_resources(config, cpus=16, gpus=2)
    assert sizing.fetch.actors == 3
    assert (sizing.caption, sizing.filter) == (ActorPool(6, 0.0, 0.25), ActorPool(2, 0.0, 0.25))
    sizing = divide_resources(ClusterConfig(caption_actors=1, filter_actors=4), cpus=16, gpus=0)
    assert (sizing.caption.actors, sizing.filter.actors) == (1, 4)


@pytest.mark.parametrize(
    ("gpus", "actors", "captioners", "filters"),
    [
        (8, {}, 4, 4),
        (8, {"captioner": (1, 3)}, 3, 5),
        (8, {"captioner": (6, None)}, 6, 2),
        (8, {"captioner": (5, 5)}, 5, 3),
        (8, {"filter": (1, 2)}, 6, 2),
        (8, {"filter": (5, None)}, 3, 5),
        (8, {"model": (1, 6)}, 3, 3),
        (8, {"model": (1, 1)}, 1, 1),  # one of each is the least
        (8, {"filter": (3, 3)}, 5, 3),
        (8, {"captioner": (1, 2), "filter": (1, 3)}, 2, 3),  # three stay free
        (8, {"captioner": (5, None), "filter": (1, 2)}, 6, 2),
        (8, {"captioner": (4, None), "filter": (4, None)}, 4, 4),
        (512, {"captioner": (1, 16), "filter": (1, 8)}, 16, 8),
    ],
)
def test_actors_stay_in_the_limits_of_the_config(gpus, actors, captioners, filters):
    limits = {stage: ActorRange(min=low, max=high) for stage, (low, high) in actors.items()}
    config = ClusterConfig(actors=ActorsConfig(**limits))
    sizing = divide_resources(config, cpus=64, gpus=gpus)
    assert (sizing.caption.actors, sizing.filter.actors) == (captioners, filters)
    alone = sizing.without_captioners(config).filter.actors
    assert alone == min(captioners + filters, config.actors.filter.max or gpus)
    assert not sizing.split.fused


@pytest.mark.parametrize(("low", "high", "fetchers"), [(1, None, 4), (1, 3, 3), (5, None, 5), (4, 4, 4)])
def test_limits_of_actors_that_fetch(low, high, fetchers):
    config = ClusterConfig(actors=ActorsConfig(fetch=ActorRange(min=low, max=high)))
    assert divide_resources(config, cpus=16, gpus=0).fetch.actors == fetchers


def test_limits_on_cpus():
    limits = ActorsConfig(captioner=ActorRange(max=1), filter=ActorRange(min=2))
    sizing = divide_resources(ClusterConfig(actors=limits), cpus=16, gpus=0)
    assert (sizing.caption.actors, sizing.filter.actors) == (1, 10 - 1)


def test_fewer_actors_than_the_least_are_refused():
    enough = ActorsConfig(captioner=ActorRange(min=3), filter=ActorRange(min=1))
    assert divide_resources(ClusterConfig(actors=enough), cpus=16, gpus=4).caption.actors == 3
    line = (
        "3 captioners and 2 filters with 1 GPU each need 5 GPUs, the cluster has 4; lower "
        "cluster.actors.captioner.min, cluster.actors.filter.min or cluster.gpus_per_actor"
    )
    limits = ActorsConfig(captioner=ActorRange(min=3), filter=ActorRange(min=2))
    with pytest.raises(ClusterError, match=line):
        divide_resources(ClusterConfig(actors=limits), cpus=16, gpus=4)
    line = "3 captioners and 2 filters .* the cluster has 4; lower cluster.model_actors or cluster.gpus_per"
    with pytest.raises(ClusterError, match=line):
        divide_resources(ClusterConfig(model_actors=5), cpus=16, gpus=4)


def test_limits_that_contradict_each_other_are_refused():
    assert ActorRange(min=2, max=2).clamp(9) == 2
    with pytest.raises(ValueError, match="min 3 is above max 2; lower min or raise max"):
        ActorRange(min=3, max=2)
    limited = ActorsConfig(filter=ActorRange(max=2))
    assert ClusterConfig(caption_actors=1, actors=limited).actor_range("captioner") == ActorRange(
        min=1, max=1
    )
    with pytest.raises(ValueError, match=r"filter_actors and actors\.filter are both given; remove one"):
        ClusterConfig(filter_actors=1, actors=limited)


def test_chain_does_not_grow_beyond_the_limits():
    limits = ActorsConfig(fetch=ActorRange(max=16), captioner=ActorRange(max=3), filter=ActorRange(max=2))
    config = ClusterConfig(actors=limits)
    sizing = divide_resources(config, cpus=64, gpus=4)
    assert can_grow(config, sizing, {"CPU": 64.0, "GPU": 5.0})
    full = divide_resources(config, cpus=64, gpus=5)
    assert not can_grow(config, full, {"CPU": 640.0, "GPU": 50.0})


@pytest.mark.parametrize("cpus", [1, 2, 4, 16])
@pytest.mark.parametrize("fetchers", [1, 3, 8, 30, 1000])
def test_actors_that_fetch_leave_cpus_for_the_models(cpus, fetchers):
    sizing = divide_resources(ClusterConfig(fetch_actors=fetchers), cpus=cpus, gpus=0)
    assert sizing.fetch.actors == fetchers
    assert 0 < sizing.fetch.cpus * fetchers <= 0.25 * cpus + 1e-9
    assert sizing.caption.cpus > 0 and sizing.filter.cpus > 0
    assert 0.5 * min(cpus, 2) <= requested_cpus(sizing) <= 0.75 * cpus + 1e-9


def test_actors_that_fetch_request_less_only_beyond_a_quarter_of_the_cpus():
    each = [
        divide_resources(ClusterConfig(fetch_actors=n), cpus=16, gpus=0).fetch.cpus for n in (7, 8, 9, 16)
    ]
    assert each == [0.5, 0.5, 16 * 0.25 / 9, 0.25]


def test_exactly_the_gpus_of_the_cluster_may_be_requested():
    """25 * 0.28 is a little more than 7 in floating point."""
    config = ClusterConfig(caption_actors=15, filter_actors=10, gpus_per_actor=0.28)
    assert divide_resources(config, cpus=16, gpus=7).caption == ActorPool(15, 0.0, 0.28)


def test_more_gpus_than_the_cluster_has_are_refused():
    message = (
        "4 captioners and 1 filters with 1 GPU each need 5 GPUs, the cluster has 4; lower cluster.caption"
    )
    with pytest.raises(ClusterError, match=message):
        divide_resources(ClusterConfig(caption_actors=4, filter_actors=1), cpus=16, gpus=4)
    with pytest.raises(ClusterError, match="gpus_per_actor is 1, but the cluster has no GPU; remove the key"):
        divide_resources(ClusterConfig(gpus_per_actor=1), cpus=16, gpus=0)


def test_limits_of_a_worker_process():
    nodes = [4e9, 16e9, 16e9]
    assert process_limits(ClusterConfig(), nodes) == Limits(stall_seconds=900, memory=16_000_000_000)
    own = ClusterConfig(stall_seconds=0, worker_memory_gb=2.5)
    assert process_limits(own, nodes) == Limits(memory=2_500_000_000)
    assert process_limits(ClusterConfig(), []) == Limits(stall_seconds=900)


def test_the_connected_cluster_is_divided(monkeypatch):
    nodes = [{"Resources": {"memory": 8e9}}, {"Resources": {"memory": 4e9}}, {"Resources": {}}]
    monkeypatch.setattr(machines.ray, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 4.0})
    monkeypatch.setattr(module.ray, "nodes", lambda: nodes)
    sizing = divide_cluster(ClusterConfig())
    assert (sizing.cpus, sizing.gpus, sizing.caption.actors) == (16.0, 4.0, 2)
    assert sizing.limits == Limits(stall_seconds=900, memory=8_000_000_000)


@pytest.mark.parametrize("gpus", [0, 8])
def test_filters_take_the_place_of_captioners_where_there_are_none(gpus):
    sizing = divide_resources(ClusterConfig(), cpus=32, gpus=gpus)
    alone = sizing.without_captioners(ClusterConfig())
    assert alone.filter.actors == sizing.caption.actors + sizing.filter.actors
    assert (alone.filter.cpus, alone.filter.gpus) == (sizing.filter.cpus, sizing.filter.gpus)
    assert alone.filter.actors * alone.filter.gpus <= gpus
    given = ClusterConfig(filter_actors=1)
    sizing = divide_resources(given, cpus=32, gpus=gpus)
    assert sizing.without_captioners(given) == sizing


@pytest.mark.parametrize(
    ("config", "resources", "grows"),
    [
        ({}, {"CPU": 64.0, "GPU": 4.0}, False),
        ({}, {"CPU": 64.0, "GPU": 5.0}, True),  # one captioner more
        ({}, {"CPU": 64.0, "GPU": 3.0}, False),
        ({}, {"CPU": 256.0, "GPU": 4.0}, True),  # more machines that download
        ({}, {"CPU": 256.0, "GPU": 2.0}, False),  # more of one, fewer of the other
        ({"caption_actors": 3, "filter_actors": 1, "fetch_actors": 2}, {"CPU": 256.0, "GPU": 64.0}, False),
        ({"caption_actors": 3, "filter_actors": 1}, {"CPU": 64.0, "GPU": 2.0}, False),  # no room for them
    ],
)
def test_a_chain_grows_with_the_cluster(config, resources, grows):
    config = ClusterConfig(**config)
    sizing = divide_resources(config, cpus=64, gpus=4)
    assert sizing.resources == {"CPU": 64, "GPU": 4}
    assert can_grow(config, sizing, resources) is grows


DOWNLOAD = ClusterConfig(address="head:6379", fetch_labels={"pool": "download"})


def show_machines(monkeypatch, alive=(True, True, True), notified=()):
    """A cluster of three machines, of which the second and the third fetch."""
    labels = [{"pool": "gpu"}, {"pool": "download", "zone": "a"}, {"pool": "download"}]
    nodes = [
        {"NodeID": name, "Alive": lives, "Labels": own, "Resources": {"CPU": cpus} if lives else {}}
        for name, lives, own, cpus in zip("abc", alive, labels, (16.0, 8.0, 4.0), strict=True)
    ]
    monkeypatch.setattr(machines.ray, "cluster_resources", lambda: {"CPU": 28.0})
    monkeypatch.setattr(machines.ray, "nodes", lambda: nodes)
    monkeypatch.setattr(machines, "notified_machines", lambda: notified)


@pytest.mark.parametrize(
    ("alive", "cpus"), [((True, True, True), 12.0), ((True, False, True), 4.0), ((True, False, False), 0.0)]
)
def test_cpus_of_the_machines_that_fetch_are_counted(monkeypatch, alive, cpus):
    show_machines(monkeypatch, alive)
    assert measure_machines(DOWNLOAD) == {"CPU": 28.0, FETCH_CPU: cpus}
    assert measure_machines(ClusterConfig(address="head:6379")) == {"CPU": 28.0}


@pytest.mark.parametrize(
    ("notified", "expected"),
    [
        ({"a"}, {"CPU": 12.0, LEAVING: 1.0, FETCH_CPU: 12.0}),
        ({"a", "b"}, {"CPU": 4.0, LEAVING: 2.0, FETCH_CPU: 4.0}),
        ({"gone"}, {"CPU": 28.0, FETCH_CPU: 12.0}),
    ],
)
def test_machines_that_leave_are_not_counted(monkeypatch, notified, expected):
    show_machines(monkeypatch, notified=notified)
    assert measure_machines(DOWNLOAD) == expected


def test_a_machine_that_left_is_not_subtracted_again(monkeypatch):
    show_machines(monkeypatch, (False, True, True), {"a", "b"})
    monkeypatch.setattr(machines.ray, "cluster_resources", lambda: {"CPU": 12.0})
    assert measure_machines(DOWNLOAD) == {"CPU": 4.0, LEAVING: 1.0, FETCH_CPU: 4.0}


def test_a_machine_on_its_own_needs_no_labels(monkeypatch):
    monkeypatch.setattr(machines.ray, "cluster_resources", lambda: {"CPU": 8.0})
    monkeypatch.setattr(module.ray, "nodes", lambda: [{"Resources": {"memory": 8e9}}])
    alone = ClusterConfig(address="local", fetch_labels={"pool": "download"})
    assert divide_cluster(alone).fetch == ActorPool(2, 0.5, 0.0)


def test_machines_that_fetch_determine_the_actors_that_fetch():
    sizing = divide_resources(DOWNLOAD, cpus=128, gpus=8, fetch_cpus=16)
    assert sizing.fetch == ActorPool(4, 0.5, 0.0, {"pool": "download"})
    assert sizing.caption.actors == 4 and not sizing.caption.labels
    assert sizing.resources == {"CPU": 128, "GPU": 8, FETCH_CPU: 16}
    more = {"CPU": 256.0, "GPU": 8.0}
    assert not can_grow(DOWNLOAD, sizing, more | {FETCH_CPU: 16.0})
    assert can_grow(DOWNLOAD, sizing, more | {FETCH_CPU: 20.0})


def test_a_cluster_without_machines_that_fetch_is_refused():
    line = "^cluster.fetch_labels: no machine has the labels pool=download; .*--labels=pool=download"
    with pytest.raises(ClusterError, match=line):
        divide_resources(DOWNLOAD, cpus=128, gpus=8, fetch_cpus=0)


@pytest.mark.parametrize("labels", [{"pool": "!gpu"}, {"pool": "in(a,b)"}, {"": "a"}, {"pool": "a-"}])
def test_what_is_no_label_is_refused(labels):
    with pytest.raises(ValueError, match="is no label"):
        ClusterConfig(fetch_labels=labels)
    assert ClusterConfig(fetch_labels={"ray.io/node-group": "down_load.2"}).fetch_labels
