"""Large models are not put on the CPUs of a cluster, by any node, unless that is meant."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from capfilt.cluster.config import ClusterConfig, ClusterError, WorkersConfig
from capfilt.cluster.sizing import divide_resources
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes import train
from capfilt.pipeline.nodes.evaluate import evaluate_models
from capfilt.stages.bootstrap.model_source import ModelSource
from capfilt.stages.storage.layout import model_folder
from tests.local_chain import call_local
from tests.pipeline.nodes.test_bootstrap import context_of

LARGE = 200_000_001
CPUS, GPUS = (divide_resources(ClusterConfig(), cpus=8, gpus=gpus) for gpus in (0, 2))
ON_DEVICES = pytest.mark.parametrize(
    ("cluster", "size", "sizing", "refused"),
    [
        ({"address": "host:1"}, LARGE, CPUS, True),
        ({"address": "host:1"}, LARGE - 1, CPUS, False),
        ({"address": "host:1"}, LARGE, GPUS, False),
        ({"address": "host:1", "allow_cpu": True}, LARGE, CPUS, False),
        ({"address": "local"}, LARGE, CPUS, False),  # a laptop has no GPU that could come later
        ({"address": "local", "allow_cpu": False}, LARGE, CPUS, True),
    ],
)


@ON_DEVICES
def test_large_models_are_not_put_on_the_cpus_of_a_cluster(tmp_path, cluster, size, sizing, refused):
    context = context_of(tmp_path, lambda data: data.update(cluster=cluster))
    weights = tmp_path / "model.safetensors"
    with weights.open("wb") as stream:
        stream.truncate(size)  # sparse: takes no space
    models = {"filter": ModelSource(checkpoint=str(weights))}
    if refused:
        line = r"^the cluster has 8 CPUs and no GPU, and the filter \(200 MB\) .*wait_for.*allow_cpu=true$"
        with pytest.raises(ClusterError, match=line):
            context.check_device(models, sizing)
    else:
        context.check_device(models, sizing)


@ON_DEVICES
@pytest.mark.parametrize("workers", [{}, {"gpus_per_worker": 0}, {"gpus_per_worker": 1}])
@pytest.mark.parametrize("new", [False, True])
def test_large_models_are_not_trained_on_the_cpus_of_a_cluster(
    tmp_path, monkeypatch, cluster, size, sizing, refused, workers, new
):
    """A new model by an estimate, a checkpoint by its size. Workers that ask for no GPU are meant."""
    context = context_of(tmp_path, lambda data: data.update(cluster=cluster))
    monkeypatch.setattr(type(context), "sizing", lambda self: sizing)
    monkeypatch.setattr(train, "estimate_bytes", lambda med: size)
    with (tmp_path / "model.safetensors").open("wb") as stream:
        stream.truncate(size)
    spec = SimpleNamespace(
        node="captioner.1",
        start=None if new else str(tmp_path / "model.safetensors"),
        model=SimpleNamespace(med=None),
        train=SimpleNamespace(workers=WorkersConfig(**workers)),
    )
    trained = []
    monkeypatch.setattr("capfilt.cluster.training.trainer.fit", trained.append)
    monkeypatch.setattr(train, "_training_job", lambda *given: given)
    context = replace(context, progress=Progress(Console(quiet=True)))
    context.progress.begin("captioner.1")
    spec.total_steps = 1
    expected = NodeFailed  # a training that is replaced leaves no checkpoint
    if refused and workers.get("gpus_per_worker") != 0:
        expected = ClusterError
    with pytest.raises(expected) as error:
        train.train_model(context, spec, "content", build=None)
    if expected is ClusterError:
        assert "and the model captioner.1 (200 MB) would run on CPUs; start GPU" in str(error.value)
    assert len(trained) == (expected is NodeFailed)


@ON_DEVICES
def test_large_models_are_not_evaluated_on_the_cpus_of_a_cluster(
    tmp_path, monkeypatch, cluster, size, sizing, refused
):
    context = context_of(tmp_path, lambda data: data.update(cluster=cluster))
    board = SimpleNamespace(for_node=lambda node: None)
    context = replace(context, progress=Progress(Console(quiet=True)), board=board)
    monkeypatch.setattr(type(context), "sizing", lambda self: sizing)
    monkeypatch.setattr(
        "capfilt.cluster.remote.map_remote", lambda work, tasks, **_: [({}, 1.0) for _ in tasks]
    )
    monkeypatch.setattr("capfilt.cluster.remote.resources_of_call", call_local)
    nodes = {"pretrain.0": SimpleNamespace(kind=SimpleNamespace(trains="pretrain"))}
    context.run_dir.nodes.update(nodes)
    folder = Path(context.store.path(model_folder("pretrain.0")))
    folder.mkdir(parents=True)
    with (folder / "model.safetensors").open("wb") as stream:
        stream.truncate(size)
    node = SimpleNamespace(name="evaluate.0", needs=("pretrain.0",))
    if refused:
        with pytest.raises(ClusterError, match=r"and the model pretrain\.0 \(200 MB\) would run on CPUs"):
            evaluate_models(context, node)
    else:
        assert evaluate_models(context, node) == ({"pretrain.0": {}}, {"pretrain.0": 1.0})
