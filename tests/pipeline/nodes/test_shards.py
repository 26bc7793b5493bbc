"""Passes over the missing shards of a node: when they are repeated, in which order, and when they end."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from capfilt.cluster.chain.efficiency import EfficiencyMeter
from capfilt.cluster.chain.losses import MachinesLost
from capfilt.cluster.chain.resizing import ChainStalled, ClusterShrunk
from capfilt.cluster.chain.steps import Step
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.console.signals import NodeStopped
from capfilt.pipeline.console.throughput import Throughput
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.metrics.run_metrics import RunMetrics
from capfilt.pipeline.nodes import shards
from capfilt.pipeline.nodes.chain import mark_first_steps
from capfilt.pipeline.nodes.shards import (
    ATTEMPTS,
    ShardWork,
    missing_shards,
    run_shards,
    stream_shards,
)
from capfilt.pipeline.rundir.contents.totals import status_summary
from tests.pipeline.metrics.received import Received
from tests.runs import writable

SHRUNK, BROKEN = ClusterShrunk("half of the cluster is gone"), RuntimeError("the engine broke down\nat night")
LOST = MachinesLost("machines or processes were lost (ActorUnavailableError)")
LOST.__cause__ = RuntimeError("The actor 694a is unavailable")
CONFIG = {
    "run": {"dir": "r"},
    "sources": {"web": {"kind": "web", "rows": {"manifest": "m.csv"}}},
    "captioner": {"checkpoint": "c"},
    "filter": {"checkpoint": "f", "calibrate": {"pairs": 0}},
}


class Passes:
    """Runs `stream_shards` with an engine that follows a script.

    Args:
        script: for each pass the shards that it completes, those that fail, and what ends it: an error, the
            change of the cluster, or None.
        stop_after: number of passes after which the run is asked to stop.
    """

    def __init__(self, monkeypatch, *script, shards_in_all=3, stop_after=99):
        self.script, self.order, self.lines, self.patience = list(script), [], [], []
        self.draining, self.holding, self.shown = [], [], {}
        self.received = Received()
        self.stages, self.waiting, self.slept, self.sized_for = [], [], [], []
        self.left, self.failed = list(range(shards_in_all)), set()
        self.stop = SimpleNamespace(requested=stop_after == 0)
        self.stop_after = stop_after
        monkeypatch.setattr(shards, "run_chain", self.run_chain)
        monkeypatch.setattr(shards.time, "sleep", self.slept.append)

    def run_chain(self, items, steps, *, segment, name, resizing):
        self.patience.append(resizing.patience())
        for waiting in self.waiting:
            resizing.on_waiting(waiting)
        self.order.append([item["shard"] for item in items])
        assert len(self.order) <= len(self.script), "a pass too many"
        done, failed, error = self.script[len(self.order) - 1]
        self.failed = set(failed)
        self.stop.requested = len(self.order) >= self.stop_after
        for shard in done:
            self.left.remove(shard)
            yield {"shard": shard}
        if isinstance(error, str):
            resizing.reason = error
        elif error is not None:
            raise error

    def sizing(self, name, shards):
        self.sized_for.append((name, shards))
        return SimpleNamespace(limits=None, resources={}, cpus=4.0)

    def run(self):
        """The shards that are left."""
        board = SimpleNamespace(
            for_node=lambda name: SimpleNamespace(
                set_draining=self.draining.append, set_holding=self.holding.append
            ),
            failed_shards=lambda name: {f"web/{shard:06d}" for shard in self.failed},
        )
        context = SimpleNamespace(
            board=board,
            stop=self.stop,
            progress=SimpleNamespace(say=lambda name, line: self.lines.append(line), board=self.shown),
            metrics=RunMetrics(self.received),
            sizing=self.sizing,
            config=parse_config(CONFIG, "test"),
        )
        missing = lambda: [{"source": "web", "shard": shard} for shard in self.left]  # noqa: E731
        self.results = []
        stages = lambda sizing: self.stages  # noqa: E731
        work = ShardWork("n", stages, missing, self.results.append, Throughput(), shards=7)
        return [each["shard"] for each in stream_shards(context, work)]


def test_one_pass_is_enough_if_nothing_fails(monkeypatch):
    passes = Passes(monkeypatch, ([0, 1, 2], [], None))
    assert passes.run() == [] and passes.order == [[0, 1, 2]] and passes.lines == []
    assert passes.results == [{"shard": 0}, {"shard": 1}, {"shard": 2}]
    nothing = Passes(monkeypatch, shards_in_all=0)
    assert nothing.run() == [] == nothing.order


def test_passes_are_repeated_while_they_complete_shards(monkeypatch):
    one_each = [([shard], [], None) for shard in range(5)]
    passes = Passes(monkeypatch, *one_each, shards_in_all=5)
    assert passes.run() == [] and len(passes.order) == 5
    assert passes.lines[0] == "shards failed; continuing with 4 shards"
    assert passes.received.sum("capfilt_repeated_passes") == {("n", "failed"): 4}
    assert passes.sized_for == [("n", 7)] * 5, "also of shards that are done: a resumed run is sized alike"


def test_pass_that_completes_nothing_is_the_last_one(monkeypatch):
    passes = Passes(monkeypatch, ([1], [], None), ([], [], None))
    assert passes.run() == [0, 2] and passes.order == [[0, 1, 2], [0, 2]]


@pytest.mark.parametrize("error", [SHRUNK, LOST, BROKEN])
def test_error_of_the_engine_is_raised_if_shards_are_left(monkeypatch, error):
    script = [([0], [], error)] + [([], [], error)] * ATTEMPTS
    passes = Passes(monkeypatch, *script)
    with pytest.raises(type(error)):
        passes.run()
    idle = 1 if error is BROKEN else ATTEMPTS
    assert len(passes.order) == 1 + idle
    if error is BROKEN:
        assert passes.lines == ["RuntimeError: at night; continuing with 2 shards"]
    wait = MachinesLost.settle_seconds if error is LOST else 0
    assert set(passes.slept) == {wait} and (wait > 0) == (error is LOST), "until Ray knows what is left"
    if error is LOST:
        assert set(passes.lines) == {f"{LOST}; continuing with 2 shards"}
    (label,) = passes.received.sum("capfilt_repeated_passes")
    assert label == ("n", {SHRUNK: "resized", LOST: "lost", BROKEN: "error"}[error])


def test_error_of_the_engine_does_not_matter_if_all_shards_are_done(monkeypatch):
    assert Passes(monkeypatch, ([0], [], BROKEN), ([1, 2], [], BROKEN)).run() == []


def test_idle_passes_are_counted_again_after_a_pass_that_completes_a_shard(monkeypatch):
    idle = [([], [], SHRUNK)] * (ATTEMPTS - 1)
    passes = Passes(monkeypatch, *idle, ([2], [], SHRUNK), *idle, ([0, 1], [], None))
    assert passes.run() == [] and len(passes.order) == 2 * ATTEMPTS


def test_shards_that_have_failed_come_last_and_the_others_get_another_pass(monkeypatch):
    passes = Passes(monkeypatch, ([], [0], BROKEN), ([1, 2], [], BROKEN), ([], [0], BROKEN))
    with pytest.raises(RuntimeError):
        passes.run()
    assert passes.order == [[0, 1, 2], [1, 2, 0], [0]]


def test_failures_known_before_are_no_reason_for_another_pass(monkeypatch):
    passes = Passes(monkeypatch, ([], [0], None), ([], [0], None))
    assert passes.run() == [0, 1, 2] and len(passes.order) == 2
    everything_failed = Passes(monkeypatch, ([], [0, 1, 2], None))
    assert everything_failed.run() == [0, 1, 2]


GROWN = "the cluster has 16 CPUs and 0 GPUs now"


def test_pass_that_ends_for_a_larger_cluster_is_followed_by_another(monkeypatch):
    passes = Passes(monkeypatch, ([0], [], GROWN), ([], [], GROWN), ([1, 2], [], None))
    assert passes.run() == [] and passes.order == [[0, 1, 2], [1, 2], [1, 2]]
    assert passes.lines == [f"{GROWN}; continuing with 2 shards"] * 2
    assert passes.draining == [False] * 3, "readers work again"
    assert passes.received.sum("capfilt_repeated_passes") == {("n", "resized"): 2}


def test_pass_that_has_stalled_is_repeated_with_more_patience(monkeypatch):
    stalled = ([], [], ChainStalled("no task has finished"))
    passes = Passes(monkeypatch, *[stalled] * ATTEMPTS)
    with pytest.raises(ChainStalled):
        passes.run()
    assert passes.patience == [900.0, 1800.0, 3600.0]


def test_the_first_stage_waits_while_it_is_too_far_ahead(monkeypatch):
    passes = Passes(monkeypatch, ([0, 1, 2], [], None))
    passes.stages = [
        Step(name="read", make=object, kind="read"),
        Step(name="fetch", make=object, actors=1),
        Step(name="caption", make=object, actors=2),
    ]
    passes.waiting = [(99, 99, 8), (99, 99, 9), (99, 99, 8), (9, 9)]
    passes.run()
    assert passes.holding == [False, False, True, False, False], "first from the pass before"


def test_pass_whose_stages_have_shards_at_work_has_not_stalled(monkeypatch):
    passes = Passes(monkeypatch, ([0, 1, 2], [], None))
    passes.shown = {"n": {"at_work": {"caption": 1}}, "another": {}}
    passes.run()
    assert passes.patience == [float("inf")]


@pytest.mark.parametrize(
    ("actors", "begins"),
    [
        ({"read": 0, "fetch": 2, "caption": 2, "write": 0}, ["read", "fetch"]),
        ({"read": 0, "caption": 2, "filter": 1, "write": 0}, ["read", "caption"]),
        ({"read": 0, "write": 0}, ["read"]),
    ],
)
def test_reader_and_first_actors_skip_shards(actors, begins):
    kinds = {"read": "read", "write": "write"}
    steps = (
        Step(name=name, make=object, actors=number, kind=kinds.get(name, "map"))
        for name, number in actors.items()
    )
    assert [step.name for step in mark_first_steps(steps) if step.begins] == begins


@pytest.mark.parametrize("stop_after", [0, 1])
def test_run_that_stops_starts_no_further_pass(monkeypatch, stop_after):
    passes = Passes(monkeypatch, ([0], [], None), stop_after=stop_after)
    assert passes.run() == [0, 1, 2][stop_after:] and passes.lines == []


def test_failed_node_is_not_retried(monkeypatch):
    passes = Passes(monkeypatch, ([0], [], NodeFailed("too many rows failed")))
    with pytest.raises(NodeFailed, match="too many rows"):
        passes.run()


def test_long_causes_are_cut(monkeypatch):
    passes = Passes(monkeypatch, ([0], [], ValueError("x" * 500)), ([1, 2], [], None))
    assert passes.run() == []
    assert passes.lines == [f"ValueError: {'x' * 188}; continuing with 2 shards"]


def test_summary_of_statuses_begins_with_the_most_frequent():
    assert status_summary({"dns": 2, "success": 12_345, "timeout": 3}) == "12,345 success, 3 timeout, 2 dns"


class TestRunShards:
    """The end of a node on its shards."""

    @pytest.fixture
    def run(self, tmp_path, monkeypatch):
        """Runs the fetch node over two shards of the source "web"; the engine completes the first ones."""
        self.works = []
        (tmp_path / "urls.csv").write_text("url,caption\na,a\nb,b\nc,c\n")

        def call(completed, *, stop=False):
            data = CONFIG | {"run": {"dir": str(tmp_path / "run")}}
            rows = {"manifest": str(tmp_path / "urls.csv"), "shard_size": 2}
            data["sources"] = {"web": {"kind": "web", "rows": rows}}
            run_dir = writable(parse_config(data, "test"))
            board = SimpleNamespace(
                failures=lambda name: {"a cause": 1}, rates={"bootstrap.1": {"caption": 2.0}}.__getitem__
            )
            progress = Progress(Console(quiet=True))
            progress.begin("bootstrap.1")
            context = SimpleNamespace(
                run_dir=run_dir,
                config=run_dir.config,
                store=run_dir.store,
                ledger=run_dir.ledger,
                board=board,
                progress=progress,
                metrics=RunMetrics(),
                stop=SimpleNamespace(requested=stop),
            )
            left = [{"source": "web", "shard": shard} for shard in range(completed, 2)]
            monkeypatch.setattr(
                shards, "stream_shards", lambda context, work: self.works.append(work) or left
            )
            return run_shards(
                context, run_dir.nodes["bootstrap.1"], lambda sizing: [], {"web": "rounds/1/web"}
            )

        return call

    @pytest.mark.parametrize("stop", [False, True])
    def test_node_is_done_if_no_shard_is_left_even_if_the_run_stops(self, run, stop):
        run(2, stop=stop)
        assert [work.shards for work in self.works] == [2]

    def test_efficiency_is_measured_with_the_rates_at_the_end(self, run, monkeypatch):
        """The board that is shown was read before the end: after a short chain it has no rates yet."""
        monkeypatch.setattr(EfficiencyMeter, "measure", lambda meter, rates: rates)
        assert run(2) == {"caption": 2.0}

    def test_node_is_stopped_if_shards_are_left_and_the_run_stops(self, run):
        with pytest.raises(NodeStopped, match=r"^1 of 2 shards are done$"):
            run(1, stop=True)

    def test_node_fails_if_shards_are_left(self, run):
        with pytest.raises(NodeFailed) as error:
            run(1)
        line = str(error.value)
        assert line.startswith("bootstrap.1: 1 of 2 shards failed in every attempt (first: shard 1 of web)")
        assert line.endswith("a cause; the same command retries only these")


def test_missing_shards_are_those_without_a_commit_record():
    committed = {"corpus/a": [0, 2], "corpus/b": []}
    context = SimpleNamespace(ledger=SimpleNamespace(committed_shards=committed.__getitem__))
    indexes = {"a": SimpleNamespace(shards=4), "b": SimpleNamespace(shards=1)}
    assert missing_shards(context, indexes, {"a": "corpus/a", "b": "corpus/b"}) == [
        {"source": "a", "shard": 1},
        {"source": "a", "shard": 3},
        {"source": "b", "shard": 0},
    ]
