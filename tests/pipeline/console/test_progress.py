"""Progress lines and the live table; messages of workers are printed once. Without a running Ray."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import pyarrow as pa
import pytest
from rich.console import Console

from capfilt.cluster.board import MAX_NOTICES, NodeStatus, _StatusActor
from capfilt.cluster.chain.steps import StageRunner, Step
from capfilt.models.tasks.ensemble import MatcherEnsemble
from capfilt.models.tasks.micro_batches import MicroBatches
from capfilt.pipeline.console import progress as progress_module
from capfilt.pipeline.console.progress import LINE_EVERY_SECONDS, Progress, training_note
from capfilt.stages.bootstrap.caption import Caption
from capfilt.stages.bootstrap.filter import Filter

TIMESTAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


class LocalActor:
    """The board's actor in this process."""

    def __init__(self):
        self.board = _StatusActor.__ray_metadata__.modified_class()

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self.board, name))


class OneRowAtATime:
    """A stage with memory for a batch of one row."""

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


class WithoutNotices:
    def __call__(self, batch):
        return batch


class Screen:
    """A console that collects what is printed."""

    def __init__(self, **options):
        self.text = io.StringIO()
        self.console = Console(file=self.text, width=60, **options)

    def lines(self):
        """Lines without their timestamps, which are checked; runs of blanks are one."""
        lines = self.text.getvalue().splitlines()
        assert all(re.match(TIMESTAMP, line) for line in lines)
        return [" ".join(re.sub(TIMESTAMP, "", line).split()) for line in lines]


@pytest.fixture
def screen():
    return Screen()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    clock = SimpleNamespace(now=1000.0)
    stopped = SimpleNamespace(monotonic=lambda: clock.now, strftime=progress_module.time.strftime)
    monkeypatch.setattr(progress_module, "time", stopped)
    return clock


def test_lines_tell_how_nodes_begin_and_end(screen, clock):
    progress = Progress(screen.console)
    progress.skip("fetch")
    progress.begin("captioner.1")
    progress.begin("filter.1", resumed="going on where it stopped")
    clock.now += 61.5
    progress.say("filter.1", "a message [with brackets]")
    progress.end("captioner.1", "100 pairs [/x]")
    progress.end("filter.1", "", "failed")
    assert screen.lines() == [
        "fetch done before",
        "captioner.1 started",
        "filter.1 started, going on where it stopped",
        "filter.1 a message [with brackets]",
        "captioner.1 done in 62 s 100 pairs [/x]",
        "filter.1 failed in 62 s",
    ]


def test_running_node_has_a_line_now_and_then(screen, clock):
    progress = Progress(screen.console)
    with progress:
        progress.begin("fetch")
        progress.set_total("fetch", 7500, unit="rows")
        progress.advance("fetch", 4500)
        progress.describe("fetch", lambda board: "12 images/s  " * 10)  # longer than the console is wide
        clock.now += LINE_EVERY_SECONDS - 0.1
        progress.draw()
        assert len(screen.lines()) == 1
        clock.now += 0.1
        progress.draw()
        progress.draw()
        assert screen.lines()[1:] == ["fetch 4,500/7,500 rows " + "12 images/s " * 9 + "12 images/s"]
        clock.now += LINE_EVERY_SECONDS
        progress.draw()
    assert len(screen.lines()) == 3


def test_total_keeps_the_unit_unless_it_names_another(screen, clock):
    progress = Progress(screen.console)
    progress.begin("fetch", unit="shards")
    progress.describe("fetch", "")
    for options, line in (({}, "fetch 0/10 shards"), ({"unit": "rows"}, "fetch 0/10 rows")):
        progress.set_total("fetch", 10, **options)
        clock.now += LINE_EVERY_SECONDS
        progress.draw()
        assert screen.lines()[-1] == line


def test_node_that_says_nothing_is_starting(screen, clock):
    progress = Progress(screen.console)
    progress.begin("fetch")
    clock.now += LINE_EVERY_SECONDS
    progress.draw()
    assert screen.lines()[-1] == f"fetch starting ({LINE_EVERY_SECONDS:.0f} s)"


def test_note_that_is_a_text_shows_how_long_it_stands(screen, clock):
    progress = Progress(screen.console)
    progress.describe("fetch", "a node that does not run")
    progress.begin("report.1")
    clock.now += 10
    progress.describe("report.1", "writing the pages")
    clock.now += LINE_EVERY_SECONDS
    progress.draw()
    assert screen.lines()[-1] == f"report.1 writing the pages ({LINE_EVERY_SECONDS:.0f} s)"


def test_note_that_is_a_function_gets_what_the_workers_of_its_node_posted(screen, clock):
    progress = Progress(screen.console, poll=lambda: {"fetch": {"at_work": 1}, "other": {"at_work": 2}})
    progress.begin("fetch")
    progress.describe("fetch", lambda board: f"at work {board['at_work']}")
    clock.now += LINE_EVERY_SECONDS
    progress.draw()
    assert screen.lines()[-1] == "fetch at work 1"


def test_training_shows_what_its_workers_posted(screen, clock):
    values = {
        "step": 30,
        "total": 120,
        "loss": 1.5,
        "lm": 0.25,
        "steps_per_second": 3.0,
        "samples_per_second": 96.4,
    }
    progress = Progress(screen.console, poll=lambda: {"pretrain.0": values, "unknown": values, "fetch": {}})
    progress.begin("pretrain.0")
    clock.now += LINE_EVERY_SECONDS
    progress.draw()
    assert screen.lines()[1] == (
        "pretrain.0 30/120 steps loss 1.500 lm 0.250 3.0 steps/s 96 samples/s 30 s left"
    )
    assert training_note({"step": 1, "total": 2, "mfu": 0.4231}) == "  0.0 steps/s  MFU 42.3%  0 s left"


def test_terminal_shows_a_table_and_lines_without_timestamps(clock):
    screen = Screen(force_terminal=True, color_system=None, legacy_windows=False)
    progress = Progress(screen.console)
    with progress:
        progress.begin("fetch", total=10)
        progress.advance("fetch", 3)
        progress.describe("fetch", lambda board: "note [/x]")
        progress.draw()
        assert "3/10 rows" in screen.text.getvalue() and "note [/x]" in screen.text.getvalue()
    progress.end("fetch", "10 rows")
    assert not re.search(TIMESTAMP, screen.text.getvalue())
    assert "done in 0 s  10 rows" in screen.text.getvalue()


@pytest.fixture
def actor():
    return LocalActor()


@pytest.fixture
def progress(actor, screen):
    return Progress(screen.console, poll=actor.board.read)


def step(actor, make, name="caption"):
    return Step(name=name, make=make, node_status=NodeStatus(actor, "bootstrap.1"))


def test_halved_batch_is_reported_once_for_each_stage_and_size(actor, progress, screen):
    rows = pa.table({"n": [1, 2, 3, 4]})
    for name in ("caption", "caption", "filter"):  # two actors of one stage, one of another
        out = StageRunner(step(actor, OneRowAtATime, name))(rows)
        assert out["n"].to_pylist() == [1, 2, 3, 4]
        progress.draw()
    progress.draw()
    assert screen.lines() == [
        "bootstrap.1 caption: out of memory with a batch of 4 images; continuing with 2",
        "bootstrap.1 caption: out of memory with a batch of 2 images; continuing with 1",
        "bootstrap.1 filter: out of memory with a batch of 4 images; continuing with 2",
        "bootstrap.1 filter: out of memory with a batch of 2 images; continuing with 1",
    ]


def test_without_a_board_a_notice_is_logged(actor, progress, screen, caplog):
    StageRunner(replace(step(actor, OneRowAtATime), node_status=None))(pa.table({"n": [1, 2]}))
    progress.draw()
    assert screen.lines() == [] and caplog.messages == [
        "out of memory with a batch of 2 images; continuing with 1"
    ]


def test_stage_without_notices_posts_nothing(actor):
    assert StageRunner(step(actor, WithoutNotices))(pa.table({"n": [1]})).num_rows == 1
    assert actor.board.read() == {}


def test_notices_stay_when_numbers_change_and_are_bounded(actor):
    board = NodeStatus(actor, "pretrain.0")
    for number in range(MAX_NOTICES + 5):
        for _ in range(2):  # a second actor of the stage repeats the notice
            board.add_notice(f"line {number}")
        actor.board.post("pretrain.0", {"step": number})
    assert actor.board.read()["pretrain.0"]["notices"] == [f"line {n}" for n in range(MAX_NOTICES)]
    assert actor.board.read()["pretrain.0"]["step"] == MAX_NOTICES + 4


@pytest.mark.parametrize(
    ("stage", "name", "gather"),
    [(Caption, "captioners", list), (Filter, "matcher", MatcherEnsemble)],
)
def test_model_stages_pass_the_notices_of_their_models_on(stage, name, gather):
    made, notices = stage.__new__(stage), []
    batches = MicroBatches(2)
    setattr(made, name, gather([SimpleNamespace(batches=batches)]))
    made.on_notice(notices.append)
    batches.on_notice("a line")
    assert notices == ["a line"]
