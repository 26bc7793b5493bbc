"""The kinds of node: what each writes, and how commands treat it."""

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.export.node import EXPORT
from capfilt.pipeline.node import Node, NodeKind
from capfilt.pipeline.nodes.bootstrap import BOOTSTRAP
from capfilt.pipeline.nodes.evaluate import EVALUATE
from capfilt.pipeline.nodes.fetch import FETCH
from capfilt.pipeline.nodes.report import REPORT
from capfilt.pipeline.nodes.train import CAPTIONER, CONTROLS, FILTER, PRETRAIN, SHARED
from capfilt.pipeline.plan import plan
from capfilt.pipeline.tasks.data import DATA
from capfilt.pipeline.tasks.evaluate import EVALUATE_TASK
from capfilt.pipeline.tasks.finetune import FINETUNE
from tests.tiny import tiny_data

TASKS = (DATA, FINETUNE, EVALUATE_TASK)
MODELS = (PRETRAIN, CAPTIONER, FILTER, SHARED, *CONTROLS.values())
KINDS = (FETCH, *MODELS, BOOTSTRAP, EVALUATE, *TASKS, REPORT, EXPORT)
CORPUS_FOLDERS = ("records/corpus", "corpus", "images", "manifests")


def names(flag):
    return [kind.name for kind in KINDS if getattr(kind, flag)]


def test_flags_of_each_kind():
    assert names("streams_shards") == ["fetch", "bootstrap"]
    assert names("judges") == ["bootstrap"]
    assert names("trains") == ["pretrain", "captioner", "filter", "shared", *CONTROLS, "finetune"]
    assert {kind.name: kind.trains for kind in KINDS if kind.trains} == {
        "pretrain": "pretrain", "captioner": "captioner", "filter": "filter", "shared": "shared",
        "human_only": "pretrain", "filter_only": "pretrain", "captioner_only": "pretrain",
        "web_repeated": "pretrain", "itc_top": "pretrain", "finetune": "task",
    }  # fmt: skip
    assert names("summarizes") == ["report", "export"]
    assert {kind.name: kind.measures_on for kind in KINDS if kind.measures_on} == {"evaluate": ("test",)}
    shared = {kind.name: kind.shared_outputs for kind in KINDS if kind.shared_outputs}
    assert shared == {"pretrain": ("models/tokenizer",)}


@pytest.mark.parametrize(
    ("kind", "outputs"),
    [
        (FETCH, [f"{place}/{name}" for name in "ab" for place in CORPUS_FOLDERS]),
        (PRETRAIN, ["models/n.2", "train/n.2", "logs/n.2"]),
        (CAPTIONER, ["models/n.2", "train/n.2", "logs/n.2"]),
        (FILTER, ["models/n.2", "train/n.2", "logs/n.2"]),
        (BOOTSTRAP, [f"{place}/{name}" for name in "ab" for place in ("records/rounds/2", "rounds/2")]),
        (EVALUATE, []),
        (DATA, ["records/tasks/quiz", "tasks/quiz/train", "tasks/quiz/test"]),
        (FINETUNE, ["models/n.2", "train/n.2", "logs/n.2"]),
        (EVALUATE_TASK, ["results/n.2"]),
        (REPORT, ["reports/2"]),
        (EXPORT, ["exports/2"]),
    ],
)
def test_folders_that_a_node_writes(kind, outputs):
    node = Node("n.2", kind, 2, (), ("a", "b"), task="quiz")
    assert node.outputs == outputs
    files = ["metrics.json", "report.html", "noise.parquet", "statuses.parquet", "hosts.parquet"]
    required = {REPORT: [f"reports/2/{name}" for name in files], DATA: ["records/tasks/quiz/data.json"]}
    assert kind.required_files(node) == required.get(kind, [])


@pytest.mark.parametrize(
    ("source_kinds", "stale"),
    [
        ((), ["report", "export"]),
        (("web",), ["report", "export"]),
        (("human",), ["report", "export"]),
        (("test",), ["evaluate", "report", "export"]),
        (("human", "test"), ["evaluate", "report", "export"]),
    ],
)
def test_outputs_that_are_stale_after_shards_have_changed(source_kinds, stale):
    assert [kind.name for kind in KINDS if kind.is_stale_after(source_kinds)] == stale


def test_every_planned_node_is_of_a_kind_in_this_table(tmp_path):
    files = {"file": "f.json", "images": "images"}
    task = {"kind": "caption", "data": {"train": {"own": files}, "test": files}, "finetune": {}}
    data = tiny_data(tmp_path, rounds=2) | {"controls": list(CONTROLS), "export": {"to": "hf"}}
    data["tasks"] = {"quiz": task}
    nodes = plan(parse_config(data, "test")) | plan(parse_config(data | {"shared_finetune": True}, "test"))
    assert {node.kind for node in nodes.values()} == set(KINDS)
    assert {name.partition(".")[0]: repr(node.kind) for name, node in nodes.items()} == {
        kind.name: f"NodeKind('{kind.name}')" for kind in KINDS
    }


def test_kind_needs_only_outputs_inputs_and_the_work():
    kind = NodeKind("new", outputs=lambda node: [], inputs=lambda fingerprints, node: {}, run=lambda *_: None)
    kind.check_inputs(None, None)
    assert kind.required_files(Node("new.1", kind, 1, ())) == [] and not kind.is_stale_after(["web", "test"])
