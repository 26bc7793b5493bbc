"""Steps that share a process: claims, blame, groups. Without a running Ray."""

from dataclasses import replace

import pyarrow as pa
import pytest

from capfilt.cluster.chain import engine
from capfilt.cluster.chain.engine import chain_demand, run_chain
from capfilt.cluster.chain.resizing import Demand
from capfilt.cluster.chain.steps import FusedRunner, StageRunner, Step, group_steps
from capfilt.pipeline.nodes.chain import ISOLATION
from tests.cluster.chain.poisoned import Poisoned, PoisonedByUrl, batch
from tests.local_run import IgnoringStatus


class Board(IgnoringStatus):
    """A `NodeStatus` with the claims of the status actor."""

    def __init__(self, **deaths):
        self.claims = dict(deaths)
        self.calls = []

    def claim(self, stage, shard):
        earlier = self.claims.get(stage, 0)
        self.claims[stage] = earlier + 1
        self.calls.append(f"claim {stage}")
        return earlier

    def release(self, stage, shard):
        del self.claims[stage]
        self.calls.append(f"release {stage}")

    def report_start(self, stage):
        self.calls.append(f"start {stage}")

    def report_rate(self, stage, rate):
        self.calls.append(f"rate of {stage}: {rate}")

    def report_failure(self, cause, *, shard=None, stage=None, wait=False):
        self.calls.append(f"failure of {stage}")


class Seen:
    """Records the claims that are held while it works."""

    def __init__(self, board, held):
        self.board, self.held = board, held

    def __call__(self, batch):
        self.held.append(set(self.board.claims))
        return batch


def steps(board, first=Poisoned, second=PoisonedByUrl, **changes):
    common = {"isolation": ISOLATION, "node_status": board, "actors": 2, "cpus": 0.5} | changes
    return [
        Step(name="caption", make=first, **common),
        Step(name="filter", make=second, fused=True, **common),
    ]


def rows(*poisons):
    """A shard of rows, each with the poison of the first and of the second step."""
    table = batch(*(first for first, _ in poisons))
    place = table.schema.get_field_index("url")
    return table.set_column(place, "url", pa.array([second for _, second in poisons]))


def test_each_step_claims_the_shard_and_releases_it():
    board = Board()
    out = FusedRunner(steps(board))(rows(("a", "b")))
    assert board.calls == [
        "start caption",
        "start filter",
        "claim caption",
        "release caption",
        "claim filter",
        "release filter",
    ]
    assert out["length"].to_pylist() == [1]
    assert out.column_names[-2:] == ["seconds_caption", "seconds_filter"]


class Rated(Poisoned):
    """Knows its rate after the first shard."""

    known = None

    def rate(self):
        before, self.known = self.known, 4.5
        return before


def test_rates_are_reported_once_they_are_known():
    board = Board()
    runner = FusedRunner(steps(board, second=Rated))
    for _ in range(2):
        runner(rows(("a", "b")))
    assert [call for call in board.calls if "rate" in call] == ["rate of filter: 4.5"]


def test_rows_that_kill_are_blamed_on_the_step_that_they_kill():
    """What an attempt does after a process has died in each of the steps."""
    board = Board(caption=1, filter=1)
    out = FusedRunner(steps(board))(rows(("kill", "x"), ("a", "segv")))
    assert out["status"].to_pylist() == ["crashed", "crashed"]
    died = "the worker process was killed by {}, in two attempts with only this row"
    assert out["error_message"].to_pylist() == [
        f"caption: {died.format('SIGKILL')}",
        f"filter: {died.format('SIGSEGV')}",
    ]
    assert board.claims == {}


@pytest.mark.parametrize(
    ("deaths", "held"),
    [({}, set()), ({"caption": 1}, {"caption"}), ({"filter": 1}, set())],
)
def test_step_that_needed_a_subprocess_needs_one_again_if_the_process_dies_later(monkeypatch, deaths, held):
    """The claims that are left behind if the process dies in the second step."""
    board, seen = Board(**deaths), []
    monkeypatch.setattr(StageRunner, "_run_in_subprocess", lambda self, make, batch, isolation: make()(batch))
    FusedRunner(steps(board, second=lambda: Seen(board, seen)))(rows(("a", "b")))
    assert seen == [held | {"filter"}] and board.claims == {}


@pytest.mark.parametrize("deaths", [{}, {"caption": 1, "filter": 1}])
def test_error_of_a_step_leaves_no_claim_and_ends_the_shard(monkeypatch, deaths):
    board, seen = Board(**deaths), []
    monkeypatch.setattr(
        StageRunner, "_run_in_subprocess", lambda self, make, batch, iso: self._run_here(make(), batch, iso)
    )
    runner = FusedRunner(steps(board, second=lambda: Seen(board, seen)))
    with pytest.raises(ValueError, match="cannot process it"):
        runner(rows(*[("raise", "a")] * 4))
    assert seen == [] and "failure of caption" in board.calls and "claim filter" not in board.calls
    assert set(board.claims) == set(deaths) - {"caption"}


def test_shard_that_is_skipped_reaches_no_step():
    class Draining(Board):
        def order(self):
            return "skip"

    board = Draining()
    first, second = steps(board, begins=True)
    out = FusedRunner([first, second])(rows(("a", "b")))
    assert out.num_rows == 0 and board.calls == ["start caption", "start filter"]


READ, WRITE = (Step(name=kind, make=object, kind=kind) for kind in ("read", "write"))


def test_fused_steps_are_one_group_and_request_resources_once():
    fetch = Step(name="fetch", make=object, actors=3, cpus=0.25)
    caption, judge = steps(None, gpus=1.0)
    chain = [READ, fetch, caption, judge, WRITE]
    assert group_steps(chain) == [(READ,), (fetch,), (caption, judge), (WRITE,)]
    assert chain_demand(chain) == Demand(cpus=3 * 0.25 + 2 * 0.5, gpus=2.0)


@pytest.mark.parametrize("changes", [{"actors": 1}, {"cpus": 0.25}, {"gpus": 1.0}, {"kind": "write"}])
def test_steps_with_other_resources_cannot_be_fused(changes):
    first, second = steps(None)
    with pytest.raises(ValueError, match="step filter is fused: it needs the actors of the step before it"):
        group_steps([first, replace(second, **changes)])


def test_step_cannot_be_fused_with_tasks_or_with_nothing():
    first, second = steps(None, actors=0)
    for chain in ([first, second], [second]):
        with pytest.raises(ValueError, match="step filter is fused"):
            group_steps(chain)


def test_group_is_one_map_of_the_chain(monkeypatch):
    calls = []

    class Dataset:
        def map_batches_internal(self, function, **options):
            calls.append((function, options.get("fn_constructor_args"), options["compute"]))
            return self

        def set_name(self, name):
            pass

        def iter_batches(self, **options):
            return iter([])

    monkeypatch.setattr(engine.ray.data, "from_items", lambda items, override_num_blocks: Dataset())
    caption, judge = steps(None)
    assert list(run_chain([{"shard": 0}], [READ, caption, judge, WRITE])) == []
    assert [function for function, _, _ in calls] == [engine.run_task, FusedRunner, engine.run_task]
    assert calls[1][1] == ((caption, judge),) and calls[1][2].max_size == 2
