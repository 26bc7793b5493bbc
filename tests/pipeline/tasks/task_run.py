"""Runs of downstream tasks in this process, without Ray: small data of shapes, and a tiny model."""

import torch

from capfilt.cluster import remote
from capfilt.cluster.training import trainer
from capfilt.cluster.training.trainer import Worker
from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.models.config import MedConfig, TextConfig, VisionConfig
from capfilt.models.network.med import MED
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from capfilt.pipeline.tasks import inputs
from capfilt.pipeline.training import learner as training
from tests.local_chain import call_local, map_local
from tests.local_feed import request_local
from tests.local_run import local_run

WORDS = (
    "how many shapes are there? what color shape is the there a an in left right image has something one two "
    "three red orange yellow green blue purple pink black circle disc square box triangle star cross plus "
    "ring hoop and next to beside of yes no 1 2 3 it picture with one moves sideways up down how does move"
)
SHAPES = ShapesConfig(
    human=30, web=1, test=10, questions=24, statements=24, dialogs=16, videos=12, image_size=32
)


def make_data(folder):
    """The shapes, and pretrained models with random weights: one in `folder/start`, and one in
    `folder/square` whose image encoder is as wide as its text encoder."""
    make_shapes(SHAPES, folder / "shapes")
    torch.manual_seed(0)
    tokenizer = Tokenizer.train([WORDS], vocab_size=300)
    text = TextConfig(
        vocab_size=tokenizer.vocab_size, width=16, depth=2, heads=2, ffn=32, max_positions=64, dropout=0.1
    )
    for name, width in (("start", 24), ("square", 16)):
        vision = VisionConfig(image_size=32, patch_size=16, width=width, depth=1, heads=2)
        med = MED(MedConfig(text=text, vision=vision, embed_dim=8))
        save_checkpoint(folder / name, med, tokenizer, {})


def task_data(folder, kind):
    """Files of a task of this kind, as the config has them."""
    shapes = folder / "shapes"
    if kind == "vqa":
        return {
            split: {
                "file": str(shapes / f"vqa/{split}_questions.json"),
                "annotations": str(shapes / f"vqa/{split}_annotations.json"),
                "images": str(shapes / "vqa" / split),
                "image_name": "{image_id:06d}.jpg",
            }
            for split in ("train", "test")
        }
    if kind == "video_retrieval":
        files = {"train": {"file": str(shapes / "videos/msrvtt.json"), "split": "train"},
                 "test": {"file": str(shapes / "videos/test.csv")}}  # fmt: skip
        return {split: each | {"images": str(shapes / "videos/files")} for split, each in files.items()}
    if kind == "video_qa":
        return {
            split: {"file": str(shapes / f"videos/{split}_qa.json"), "images": str(shapes / "videos/files")}
            for split in ("train", "test")
        }
    if kind == "visdial":
        files = {
            split: {
                "file": str(shapes / f"visdial/{split}.json"),
                "images": str(shapes / "visdial" / split),
                "image_name": "{image_id:06d}.jpg",
            }
            for split in ("train", "test")
        }
        files["test"]["annotations"] = str(shapes / "visdial/test_dense.json")
        return files
    if kind == "nlvr2":
        return {
            split: {"file": str(shapes / f"nlvr2/{split}.jsonl"), "images": str(shapes / "nlvr2/images")}
            for split in ("train", "test")
        }
    return {
        split: {"file": str(shapes / f"{source}/annotations.json"), "images": str(shapes / source)}
        for split, source in (("train", "human"), ("test", "test"))
    }


def start_of(kind):
    """The folder of the model that a task of this kind starts from."""
    return "square" if kind == "visdial" else "start"


def config_data(folder, kind, run="run", **finetune):
    """Config data of one task named "quiz" that starts from a model of `make_data`."""
    data = task_data(folder, kind)
    objective = {"queue_size": 0, "alpha": 0.0} if "retrieval" in kind else {}
    return {
        "run": {"dir": str(folder / run), "name": "tasks"},
        "tasks": {
            "quiz": {
                "kind": kind,
                "data": {"train": {"shapes": data["train"]}, "test": data["test"]},
                "checkpoint": str(folder / start_of(kind)),
                "finetune": {
                    "steps": 4,
                    "batch_size": 8,
                    "image_size": 32,
                    "decode_threads": 0,
                    "objective": objective,
                    "optimizer": {"lr": 1e-3},
                    "workers": {"gpus_per_worker": 0},
                    **finetune,
                },
            }
        },
    }


class LocalTasks:
    """Replaces Ray: shards, trainings and evaluations run in this process. `trained` has the learners."""

    def __init__(self, monkeypatch):
        self.trained = {}
        monkeypatch.setattr(training, "request_window", request_local)
        monkeypatch.setattr(trainer, "fit", self.fit)
        # Without the process that opens checkpoints beforehand, which imports torch again.
        monkeypatch.setattr(inputs, "check_checkpoints", lambda openings: [None] * len(openings))
        monkeypatch.setattr(remote, "map_remote", map_local)
        monkeypatch.setattr(remote, "resources_of_call", call_local)

    def fit(self, job):
        learner = job.build(Worker(0, 1, torch.device("cpu")))
        while learner.step < learner.total_steps:
            learner.train_step()
        learner.flush_metrics()
        learner.finish()
        self.trained[job.node] = learner


def run_nodes(data, *names):
    """Run nodes of a config in this process, all of them by default; returns the context."""
    run = local_run(parse_config(data, "tasks.yaml"))
    for name in names or run.run_dir.nodes:
        run.progress.begin(name)
        node = run.run_dir.nodes[name]
        inputs = run.fingerprints.inputs(name)
        run.ledger.start(name, inputs, run.fingerprints.given(name))
        run.ledger.finish(name, inputs, node.kind.run(run, node), 1.0)
    return run
