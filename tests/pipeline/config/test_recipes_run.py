"""Every recipe trains when scaled down: fetch, pretraining and both finetunings in this process, without
Ray."""

import math
from dataclasses import asdict, dataclass
from itertools import islice, repeat

import pytest
import torch

from capfilt.cluster.training import trainer
from capfilt.cluster.training.trainer import Worker
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes import shards as shard_nodes
from capfilt.pipeline.training import learner as training
from capfilt.stages.pairs.order import OrderConfig, Position, plan_windows
from capfilt.stages.pairs.parts import PartsError
from tests.local_chain import run_local
from tests.local_feed import request_local
from tests.local_run import local_run
from tests.recipes import RECIPES, recipe, scaled_down

STEPS = 10
QUEUE_STEPS = 2
"""Steps after which the queue of a scaled-down recipe holds pairs instead of the initial noise, which is easy
to tell from pairs."""


@dataclass
class Trained:
    """The spec of a node's training, and its losses: of each step, and on its one batch without dropout."""

    spec: object
    steps: list
    before: dict
    after: dict
    recomputing: int


class LocalCluster:
    """Replaces Ray: runs the stages shard by shard in this process, and ten steps of each training."""

    def __init__(self, monkeypatch):
        self.trained = {}
        monkeypatch.setattr(training, "request_window", request_local)
        monkeypatch.setattr(trainer, "fit", self.fit)
        monkeypatch.setattr(shard_nodes, "run_chain", lambda items, steps, **_: run_local(items, steps))

    def fit(self, job):
        learner = job.build(Worker(0, 1, torch.device("cpu")))
        batch = next(learner.open_batches())
        learner._batches = repeat(batch)  # the same batch in every step, so that the loss must fall
        steps = [learner.train_step()() for _ in range(QUEUE_STEPS)]
        before = losses_of(learner.objective, batch)
        steps += [learner.train_step()() for _ in range(STEPS - QUEUE_STEPS)]
        after = losses_of(learner.objective, batch)
        recomputing = sum(block.recompute for block in learner.med.visual_encoder.blocks)
        learner.finish()
        self.trained[job.node] = Trained(learner.spec, steps, before, after, recomputing)


def losses_of(objective, batch):
    """Losses without dropout, and with the same draws of negatives in every call."""
    objective.eval()
    step, objective.step = objective.step, 0
    with torch.no_grad():
        losses = objective(batch.pieces[0])
    objective.step = step
    return {name: float(value) for name, value in losses.items()}


def make_run(data):
    return local_run(parse_config(data, "recipe"))


def run_nodes(run, *names):
    for name in names:
        run.progress.begin(name)
        node = run.run_dir.nodes[name]
        node.kind.run(run, node)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


def small_recipe(name, shapes, folder):
    """Config data of a scaled-down recipe; all of them read the same corpus of shapes."""
    data = scaled_down(name, shapes)
    data["run"]["dir"] = str(folder / "run")
    return data


@pytest.mark.parametrize("name", RECIPES)
def test_losses_of_a_scaled_down_recipe_fall(name, shapes, tmp_path, monkeypatch):
    cluster, run = LocalCluster(monkeypatch), make_run(small_recipe(name, shapes, tmp_path))
    run_nodes(run, "fetch", "pretrain.0", "captioner.1", "filter.1")
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


CHANGED = {
    "objective": {"queue_size", "momentum"},
    "optimizer": {"lr", "warmup_steps"},
    "augment": set(),
}
"""Keys that scaling down changes in a training, by section."""


@pytest.mark.parametrize("name", RECIPES)
def test_scaled_down_recipe_has_the_structure_of_the_recipe(name, tmp_path):
    whole, small = recipe(name), parse_config(scaled_down(name, tmp_path), name)
    for kind, section in whole.trainings().items():
        other = small.trainings()[kind]
        assert section.epochs == other.epochs and section.sources == other.sources
        assert (section.checkpoint_layers is None) == (other.checkpoint_layers is None)
        for part, changed in CHANGED.items():
            before, after = asdict(getattr(section, part)), asdict(getattr(other, part))
            assert {key for key in before if before[key] != after[key]} <= changed
            assert all(bool(before[key]) == bool(after[key]) for key in changed), (
                "scaling down turns nothing on or off"
            )
    assert {n: s.parts for n, s in whole.sources.items()} == {n: s.parts for n, s in small.sources.items()}
    assert small.model.med.vision.drop_path == whole.model.med.vision.drop_path
    assert small.pretrain.image_size < small.filter.finetune.image_size == small.captioner.finetune.image_size


def test_each_epoch_reads_one_part_of_laion_and_all_of_the_other_sources(shapes, tmp_path, monkeypatch):
    LocalCluster(monkeypatch)
    run, specs = make_run(small_recipe("vit-b-129m", shapes, tmp_path)), []
    monkeypatch.setattr(trainer, "fit", lambda job: specs.append(job.build.args[0]))
    run_nodes(run, "fetch")
    with pytest.raises(NodeFailed, match="ended without a checkpoint"):
        run_nodes(run, "pretrain.0")
    # Two human sources of 16 pairs, three web sources of 30, and a fifth of LAION's 30.
    assert (specs[0].steps_per_epoch, specs[0].total_steps) == (128 // 8, 20 * (128 // 8))
    everything = {(source, 0) for source in ("coco", "vg", "cc3m", "cc12m", "sbu")}
    for epoch in range(6):
        config = OrderConfig(seed=0, window_shards=2)
        windows = plan_windows(specs[0].shards, config, Position(epoch))
        found = [(each.epoch, ref.source, ref.shard) for each in islice(windows, 9) for ref in each.shards]
        requested = [(source, shard) for of, source, shard in found if of == epoch]
        assert sorted(requested) == sorted(everything | {("laion", epoch % 5)})


def test_more_parts_than_shards_fail_before_any_download(shapes, tmp_path, monkeypatch):
    data = small_recipe("vit-b-129m", shapes, tmp_path)
    data["sources"]["laion"]["parts"] = 6
    monkeypatch.setattr(shard_nodes, "run_chain", lambda *_, **__: pytest.fail("a shard was fetched"))
    with pytest.raises(
        PartsError, match=r"^sources\.laion\.parts: 6 parts need 6 shards, but the source has 5"
    ):
        run_nodes(make_run(data), "fetch")
