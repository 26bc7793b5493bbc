"""What a stage wants the user to know comes to the console, once. Without a running Ray."""

import io
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pytest
from rich.console import Console

from capfilt.cluster.board import MAX_NOTICES, NodeStatus, _StatusActor
from capfilt.cluster.chain.engine import StageRunner, Step
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.pipeline.console.progress import Progress
from capfilt.stages.bootstrap.caption import Caption
from capfilt.stages.bootstrap.filter import Filter


class Here:
    """The board's actor in this process."""

    def __init__(self):
        self.board = _StatusActor.__ray_metadata__.modified_class()

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.board, name))


class Halves:
    """A stage of a model for which there is room for one row at a time."""

    def __init__(self):
        self.batches = MicroBatches(4)

    def on_notice(self, callback):
        self.batches.on_notice = callback

    def __call__(self, batch):
        def function(now):
            if now.stop - now.start > 1:
                raise MemoryError
            return batch["n"].to_pylist()[now]

        return pa.table({"n": self.batches.run(function, batch.num_rows)})


class Silent:
    def __call__(self, batch):
        return batch


@pytest.fixture
def actor():
    return Here()


@pytest.fixture
def shown(actor):
    """The console's lines and what draws them."""
    text = io.StringIO()
    progress = Progress(Console(file=text, width=200), poll=actor.board.read)
    return SimpleNamespace(
        draw=progress.draw, lines=lambda: [" ".join(s.split()) for s in text.getvalue().splitlines()]
    )


def step(actor, make, name="caption"):
    return Step(name=name, make=make, node_status=NodeStatus(actor, "bootstrap.1"))


def test_a_halved_batch_is_said_once_for_a_stage_and_a_size(actor, shown):
    rows = pa.table({"n": [1, 2, 3, 4]})
    for name in ("caption", "caption", "filter"):  # two actors of one stage, one of another
        out = StageRunner(step(actor, Halves, name))(rows)
        assert out["n"].to_pylist() == [1, 2, 3, 4]
        shown.draw()
    shown.draw()
    assert shown.lines() == [
        "bootstrap.1 caption: out of memory with a batch of 4 images; continuing with 2",
        "bootstrap.1 caption: out of memory with a batch of 2 images; continuing with 1",
        "bootstrap.1 filter: out of memory with a batch of 4 images; continuing with 2",
        "bootstrap.1 filter: out of memory with a batch of 2 images; continuing with 1",
    ]


def test_without_a_board_it_is_logged(actor, shown, caplog):
    StageRunner(replace(step(actor, Halves), node_status=None))(pa.table({"n": [1, 2]}))
    shown.draw()
    assert shown.lines() == [] and caplog.messages == ["out of memory with a batch of 2 images; continuing with 1"]


def test_a_stage_that_has_nothing_to_tell_is_left_alone(actor):
    assert StageRunner(step(actor, Silent))(pa.table({"n": [1]})).num_rows == 1
    assert actor.board.read() == {}


def test_notices_outlive_numbers_and_are_bounded(actor):
    board = NodeStatus(actor, "pretrain.0")
    for number in range(MAX_NOTICES + 5):
        for _ in range(2):  # two actors of a stage: the second takes no room
            board.add_notice(f"line {number}")
        actor.board.post("pretrain.0", {"step": number})
    assert actor.board.read()["pretrain.0"]["notices"] == [f"line {n}" for n in range(MAX_NOTICES)]
    assert actor.board.read()["pretrain.0"]["step"] == MAX_NOTICES + 4


@pytest.mark.parametrize(("stage", "model"), [(Caption, "captioner"), (Filter, "matcher")])
def test_the_model_stages_pass_on_what_their_model_tells(stage, model):
    made, told = stage.__new__(stage), []
    batches = MicroBatches(2)
    setattr(made, model, SimpleNamespace(batches=batches))
    made.on_notice(told.append)
    batches.on_notice("a line")
    assert told == ["a line"]
