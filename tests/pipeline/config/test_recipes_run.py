"""Every recipe's tiny twin trains: fetch, pretraining and both finetunings in this process, without Ray."""

import math
from dataclasses import asdict, dataclass
from itertools import repeat

import pyarrow as pa
import pytest
import torch

from capfilt.cluster.training import trainer
from capfilt.cluster.training.trainer import Worker
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes import shards as shard_nodes
from capfilt.pipeline.training import learner as training
from capfilt.stages.pairs.parts import PartsError
from capfilt.stages.pairs.read import PAIRS_SCHEMA
from capfilt.stages.pairs.stream import PairStream, Position
from tests.local_chain import run_local
from tests.local_run import local_run
from tests.recipes import RECIPES, recipe, tiny_twin

STEPS = 10
FILLED = 2
"""Steps after which a twin's queue holds pairs in place of the noise it begins with, which is easy to tell apart."""


def local_blocks(items, step):
    """`cluster.chain.engine.stream_blocks` in this process."""
    stage = step.make()
    for item in items:
        yield stage(pa.Table.from_pylist([item]))


@dataclass
class Trained:
    """What a node's training was told, and its losses (of each step, and on its one batch without dropout)."""

    spec: object
    steps: list
    before: dict
    after: dict
    recomputing: int


class Cluster:
    """Stands in for Ray under the nodes: shards through the stages one by one; of each training ten steps."""

    def __init__(self, monkeypatch):
        self.trained = {}
        monkeypatch.setattr(training, "stream_blocks", local_blocks)
        monkeypatch.setattr(trainer, "fit", self.fit)
        monkeypatch.setattr(shard_nodes, "run_chain", lambda items, steps, **_: run_local(items, steps))

    def fit(self, job):
        learner = job.build(Worker(0, 1, torch.device("cpu")))
        batch = next(learner.open_batches())
        learner._batches = repeat(batch)  # one batch again and again: whatever can learn learns that
        steps = [learner.train_step()() for _ in range(FILLED)]
        before = losses_of(learner.objective, batch)
        steps += [learner.train_step()() for _ in range(STEPS - FILLED)]
        after = losses_of(learner.objective, batch)
        recomputing = sum(block.recompute for block in learner.med.visual_encoder.blocks)
        learner.finish()
        self.trained[job.node] = Trained(learner.spec, steps, before, after, recomputing)


def losses_of(objective, batch):
    """Losses without dropout and, in both calls, with the same draws of negatives."""
    objective.eval()
    step, objective.step = objective.step, 0
    with torch.no_grad():
        losses = objective(batch.pieces[0])
    objective.step = step
    return {name: float(value) for name, value in losses.items()}


def make_run(data):
    return local_run(parse_config(data, "twin"))


def do(run, *names):
    for name in names:
        run.progress.begin(name)
        node = run.run_dir.nodes[name]
        node.kind.run(run, node)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return tmp_path_factory.mktemp("twins")


def twin(name, shapes, folder):
    """Config data of a twin; all twins read one corpus of shapes."""
    data = tiny_twin(name, shapes)
    data["run"]["dir"] = str(folder / "run")
    return data


@pytest.mark.parametrize("name", RECIPES)
def test_a_twin_trains_and_its_losses_fall(name, shapes, tmp_path, monkeypatch):
    cluster, run = Cluster(monkeypatch), make_run(twin(name, shapes, tmp_path))
    do(run, "fetch", "pretrain.0", "captioner.1", "filter.1")
    for node, losses in (
        ("pretrain.0", {"itc", "itm", "lm"}),
        ("captioner.1", {"lm"}),
        ("filter.1", {"itc", "itm"}),
    ):
        trained = cluster.trained[node]
        assert {"itc", "itm", "lm"} & set(trained.after) == losses
        assert all(math.isfinite(value) for step in trained.steps for value in step.values())
        assert trained.after["loss"] < trained.before["loss"]
        assert trained.recomputing == (trained.spec.train.checkpoint_layers or 0)
        sources = {ref.source for ref in trained.spec.shards}
        assert sources == set(recipe(name).trains_on(node.split(".")[0]))


KEPT = {
    "objective": {"queue_size", "momentum"},
    "optimizer": {"lr", "warmup_steps"},
    "augment": set(),
}
"""What differs between a recipe's trainings and its twin's, by section; everything else is equal."""


@pytest.mark.parametrize("name", RECIPES)
def test_a_twin_has_its_recipe_s_structure(name, tmp_path):
    whole, small = recipe(name), parse_config(tiny_twin(name, tmp_path), name)
    for kind, section in whole.trainings().items():
        other = small.trainings()[kind]
        assert section.epochs == other.epochs and section.sources == other.sources
        assert (section.checkpoint_layers is None) == (other.checkpoint_layers is None)
        for part, changed in KEPT.items():
            before, after = asdict(getattr(section, part)), asdict(getattr(other, part))
            assert {key for key in before if before[key] != after[key]} <= changed
            assert all(bool(before[key]) == bool(after[key]) for key in changed), "what is off stays off"
    assert {n: s.parts for n, s in whole.sources.items()} == {n: s.parts for n, s in small.sources.items()}
    assert small.model.med.vision.drop_path == whole.model.med.vision.drop_path
    assert small.pretrain.image_size < small.filter.finetune.image_size == small.captioner.finetune.image_size


def test_each_epoch_of_a_twin_has_one_part_of_laion_and_everything_else(shapes, tmp_path, monkeypatch):
    Cluster(monkeypatch)
    run, specs = make_run(twin("vit-b-129m", shapes, tmp_path)), []
    monkeypatch.setattr(trainer, "fit", lambda job: specs.append(job.build.args[0]))
    do(run, "fetch")
    with pytest.raises(NodeFailed, match="ended without a checkpoint"):
        do(run, "pretrain.0")
    # Two human sources of 16 pairs, three web sources of 30, and a fifth of LAION's 30.
    assert (specs[0].steps_per_epoch, specs[0].total_steps) == (128 // 8, 20 * (128 // 8))
    everything = {(source, 0) for source in ("coco", "vg", "cc3m", "cc12m", "sbu")}
    for epoch in range(6):
        asked = []

        def read(items, asked=asked):
            asked += [(item["source"], item["shard"]) for item in items]
            return [PAIRS_SCHEMA.empty_table() for _ in items]

        list(
            PairStream(
                specs[0].shards, read, seed=0, window_shards=2, position=Position(epoch), epochs=epoch + 1
            )
        )
        assert sorted(asked) == sorted(everything | {("laion", epoch % 5)})


def test_more_parts_than_shards_is_told_before_anything_is_fetched(shapes, tmp_path, monkeypatch):
    data = twin("vit-b-129m", shapes, tmp_path)
    data["sources"]["laion"]["parts"] = 6
    monkeypatch.setattr(shard_nodes, "run_chain", lambda *_, **__: pytest.fail("a shard was fetched"))
    with pytest.raises(PartsError, match=r"^sources\.laion\.parts: 6 parts of 5 shards"):
        do(make_run(data), "fetch")
