"""The plan of a run from measurements that follow a known law: the law says what the run takes."""

import math

import pytest

from capfilt.cluster.config import ActorRange, ActorsConfig, ClusterConfig
from capfilt.cluster.sizing import divide_resources
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.estimate.amounts import Setting
from capfilt.pipeline.estimate.assemble import plan_nodes, plan_time, stretch
from capfilt.pipeline.estimate.measured import Machines, MeasuredNode, MeasuredShard, SourceSize
from capfilt.pipeline.plan import plan
from capfilt.pipeline.probe.config import probe_config, probe_folder
from tests.tiny import tiny_data

MACHINES = Machines(cpus=4, gpus=0, cores=2)
ROWS = (16, 16, 16, 16, 64, 64, 64)


def shards(source, rows=ROWS, warm=5.0, **law):
    """Shards that take `shard + row x rows` seconds in each stage; the first one `warm` seconds more."""
    return tuple(
        MeasuredShard(
            source=source,
            shard=number,
            rows=count,
            seconds={
                stage: shard + row * count + warm * (number == 0) for stage, (shard, row) in law.items()
            },
            bytes={"images": 1000 * count},
        )
        for number, count in enumerate(rows)
    )


def training(seconds, step, steps=40, pairs=0):
    return MeasuredNode(seconds=seconds + step * steps, step_seconds=(step,) * 7, steps=steps, pairs=pairs)


def size(rows, shards, probed=256, texts=256, images=256):
    return SourceSize(
        rows=rows,
        shards=shards,
        is_estimated=False,
        probed_rows=probed,
        probed_texts=texts,
        probed_images=images,
    )


def setting(tmp_path, change=lambda data: None, machines=MACHINES, **probe):
    data = tiny_data(tmp_path)
    data["tasks"] = {}
    change(data)
    config = parse_config(data, "test")
    sources = {"human": size(1000, 1), "web": size(10_000, 10), "test": size(500, 1, 128, 640, 128)}
    return Setting(
        config=config,
        nodes=plan(config),
        probe={name.replace("_", "."): found for name, found in probe.items()},
        sources=sources,
        probed_on=machines,
        planned_on=machines,
        sizing=divide_resources(config.cluster, cpus=machines.cpus, gpus=machines.gpus),
    )


def planned(setting, name):
    return next(each for each in plan_nodes(setting) if each.node == name)


def test_a_chain_takes_its_slowest_stage_and_what_does_not_grow(tmp_path):
    law = {"caption": (0.5, 0.1), "filter": (0.25, 0.02)}
    found = shards("web", **law)
    probed = max(7 * 0.5 + 256 * 0.1 + (7 * 0.25 + 256 * 0.02) / 7, 0.5 * (7 * 0.75 + 256 * 0.12))
    # 20 s of starting processes, and the 5 s that each stage needed more for its first shard.
    run = setting(
        tmp_path,
        lambda data: data.update(cluster={"fuse": "never"}),
        bootstrap_1=MeasuredNode(seconds=20 + 10 + probed, shards=found),
    )
    node = planned(run, "bootstrap.1")
    caption, judge = 10 * 0.5 + 10_000 * 0.1, 10 * 0.25 + 10_000 * 0.02
    assert node.stages["caption"].value == pytest.approx(caption, abs=0.1)
    assert node.stages["filter"].value == pytest.approx(judge, abs=0.1)
    assert node.stages["caption"].high - node.stages["caption"].low < 0.2, "the law holds exactly"
    assert node.seconds.value == pytest.approx(30 + caption + judge / 10, abs=0.2)
    assert (node.units, node.unit, node.bottleneck) == (10_000, "rows", "caption")
    assert node.bytes["images"].value == 10_000_000


@pytest.mark.parametrize(("fuse", "expected"), [("auto", 10_000 * 0.3 / 40), ("never", 10_000 * 0.2 / 20)])
def test_captioner_and_filter_that_share_processes_work_one_after_the_other(tmp_path, fuse, expected):
    many = Machines(cpus=64, gpus=0, cores=64)
    law = {"fetch": (0, 0.001), "caption": (0, 0.1), "filter": (0, 0.2)}
    found = shards("web", rows=(64,) * 7, warm=0, **law)
    config = {"fuse": fuse, "fetch_actors": 16}
    run = setting(
        tmp_path,
        lambda data: data.update(cluster=config),
        many,
        bootstrap_1=MeasuredNode(seconds=1000, shards=found),
    )
    run.sources["web"] = size(10_000, 1000)
    node = planned(run, "bootstrap.1")
    assert (run.sizing.split.fused, node.bottleneck) == (fuse == "auto", "filter")
    assert run.sizing.filter.actors == (40 if fuse == "auto" else 20)
    assert {name: round(took.value) for name, took in node.stages.items()} == {
        "fetch": 10,
        "caption": 1000,
        "filter": 2000,
    }
    probed = 448 * 0.3 + 448 * 0.001 / 7 if fuse == "auto" else 448 * 0.2 + 448 * 0.101 / 7
    waiting = 0.01 if fuse == "auto" else 1.01
    assert node.seconds.value == pytest.approx(1000 - probed + expected + waiting, abs=0.5)
    assert node.cpus == 40


@pytest.mark.parametrize(
    ("number", "threads", "cpus"),
    [(1, 8, 8.0), (5, 2, 10.0), (10, 1, 10.0)],  # ten CPUs are for the models, and an actor has at most eight
)
def test_a_run_of_few_shards_has_fewer_processes_with_more_threads(tmp_path, number, threads, cpus):
    many = Machines(cpus=16, gpus=0, cores=16)
    found = shards("web", rows=(64,) * 7, warm=0, caption=(0, 0.1))
    run = setting(tmp_path, machines=many, bootstrap_1=MeasuredNode(seconds=100, shards=found))
    run.sources["web"] = size(10_000, number)
    node = planned(run, "bootstrap.1")
    assert node.seconds.value == pytest.approx(100 - 44.8 + 1000 / (number * threads), abs=0.5)
    assert node.cpus == cpus


def test_more_processes_share_the_work_of_a_stage(tmp_path):
    many = Machines(cpus=64, gpus=0, cores=64)
    run = setting(
        tmp_path,
        lambda data: data.update(cluster={"fetch_actors": 5}),
        many,
        fetch=MeasuredNode(seconds=100, shards=shards("web", warm=0, fetch=(0, 0.1))),
    )
    node = planned(run, "fetch")
    # 25.6 s of the 100 are work of one process in the small run; five processes share the 1,000 s of the run.
    assert node.seconds.value == pytest.approx(100 - 25.6 + 1000 / 5, abs=0.5)


def test_training_takes_its_steps_and_its_start(tmp_path):
    def long(data):
        data["pretrain"]["steps"] = 1000

    run = setting(tmp_path, long, pretrain_0=training(30, 0.5), pretrain_1=training(10, 1.0))
    first, second = planned(run, "pretrain.0"), planned(run, "pretrain.1")
    # A step was measured in two trainings with the same settings: their mean counts for both.
    assert (first.seconds.value, second.seconds.value) == (30 + 750, 10 + 750)
    spread = first.seconds.high - first.seconds.low
    assert spread > 0 and spread == second.seconds.high - second.seconds.low
    assert (first.units, first.unit) == (1000, "steps")
    assert planned(run, "captioner.1").seconds is None, "not measured"


def epochs(data):
    del data["pretrain"]["steps"]
    data["pretrain"].update(epochs=2, batch_size=10)


def test_steps_of_epochs_grow_with_the_counted_pairs(tmp_path):
    run = setting(tmp_path, epochs, pretrain_0=training(0, 1.0, pairs=256 + 128))
    node = planned(run, "pretrain.0")
    # 1,000 human pairs, and half of 10,000 web rows have one.
    assert node.units == 2 * (1000 + 5000) / 10
    error = 2 * 1.96 * math.sqrt(128) * 10_000 / 256 / 10
    assert node.seconds.high == pytest.approx(1200 + error, abs=0.1)


def test_what_an_untrained_filter_keeps_is_not_known(tmp_path):
    run = setting(tmp_path, epochs, pretrain_1=training(0, 1.0, pairs=256))
    node = planned(run, "pretrain.1")
    texts = 10_000 * (1 + 2)  # a web text and two captions for each image
    assert node.units == 2 * (1000 + texts / 2) / 10
    assert (node.seconds.low, node.seconds.high) == (2 * 1000 / 10, 2 * (1000 + texts) / 10)


def test_later_rounds_are_those_of_the_first(tmp_path):
    run = setting(
        tmp_path,
        lambda data: data["run"].update(rounds=3),
        captioner_1=training(10, 0.5),
        report_1=MeasuredNode(seconds=1.5),
    )
    assert planned(run, "captioner.3").seconds.value == 10 + 6 * 0.5
    assert planned(run, "report.2").seconds.value == 1.5


def test_evaluation_grows_with_the_images(tmp_path):
    parts = {"pretrain.0": 10.0, "pretrain.1": 10.0}
    run = setting(tmp_path, evaluate_1=MeasuredNode(seconds=14, parts=parts, units=128))
    node = planned(run, "evaluate.1")
    assert node.units == 500 and node.seconds.value == pytest.approx(4 + 10 * 500 / 128, abs=0.05)
    assert (node.cpus, node.gpus) == (2, 0), "of three quarters of four, as many as there are cores"
    limited = setting(
        tmp_path,
        lambda data: data["evaluate"].update(limit=64),
        evaluate_1=MeasuredNode(seconds=14, parts=parts, units=64),
    )
    assert planned(limited, "evaluate.1").seconds.value == 14


def test_nodes_side_by_side_share_the_cores(tmp_path):
    def two(data):
        for section in (data["captioner"]["finetune"], data["filter"]["finetune"]):
            section["workers"]["cpus_per_worker"] = 2

    run = setting(tmp_path, two, captioner_1=training(10, 1.0), filter_1=training(10, 2.0))
    alone = plan_nodes(run)
    timed = plan_time(run, alone)
    # 16 s of one and 22 s of the other, each with both cores: 38 s together, the first of them after 32 s.
    assert timed.seconds.value == pytest.approx(38)
    assert timed.stretched["captioner.1"] == 2 and timed.stretched["filter.1"] == pytest.approx(38 / 22)
    by_name = {each.node: stretch(each, timed) for each in alone}
    assert by_name["captioner.1"].seconds.value == 32 and by_name["report.1"].seconds is None


def test_tasks_are_planned_without_a_time(tmp_path):
    task = {
        "kind": "caption",
        "data": {
            "train": {"a": {"file": str(tmp_path / "train.json"), "images": str(tmp_path)}},
            "test": {"file": str(tmp_path / "test.json"), "images": str(tmp_path)},
        },
        "finetune": {"steps": 3, "batch_size": 4, "workers": {"cpus_per_worker": 3}},
    }
    run = setting(tmp_path, lambda data: data.update(tasks={"words": task}))
    node = planned(run, "finetune.words.1")
    assert node.seconds is None and node.cpus == 3
    assert plan_time(run, plan_nodes(run)).seconds.value == 0
    assert probe_config(run.config, 40).tasks == {}


def test_small_run_has_the_settings_of_the_run_and_less_to_do(tmp_path):
    config = setting(tmp_path, lambda data: data["run"].update(rounds=3)).config
    small = probe_config(config.model_copy(update={"controls": ("human_only",)}), 4)
    assert small.run.dir == probe_folder(config) == f"{config.run.dir}.probe"
    assert (small.run.rounds, small.pretrain.steps, small.filter.finetune.steps) == (1, 4, 4)
    assert probe_config(config, 40).pretrain.steps == 6, "not more than the run"
    assert small.controls == ("human_only",) and small.model == config.model
    cluster = ClusterConfig(fetch_actors=1, model_actors=1)
    assert small.cluster == cluster and cluster.may_fuse
    for given in (
        {"fuse": "never"},
        {"caption_actors": 3},
        {"actors": ActorsConfig(filter=ActorRange(min=2))},
    ):
        apart = probe_config(config.model_copy(update={"cluster": ClusterConfig(**given)}), 4).cluster
        assert apart == ClusterConfig(
            fuse=given.get("fuse", "auto"), fetch_actors=1, caption_actors=1, filter_actors=1
        )
