"""One step on one shard: what it adds, reports, and hands to a subprocess. Without a running Ray."""

from functools import partial
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray.data

from capfilt.cluster.chain import engine
from capfilt.cluster.chain import steps as steps_module
from capfilt.cluster.chain.engine import chain_context, chain_demand, run_chain
from capfilt.cluster.chain.resizing import Demand
from capfilt.cluster.chain.steps import (
    StageRunner,
    Step,
    run_task,
)
from capfilt.cluster.chain.watchdog import Limits
from capfilt.pipeline.nodes.chain import ISOLATION
from tests.cluster.chain.poisoned import Poisoned, batch


class RecordingStatus:
    """A `NodeStatus` that answers every claim with the same number of earlier deaths."""

    def __init__(self, deaths):
        self.deaths, self.calls, self.orders = deaths, [], []

    def order(self):
        return self.orders.pop(0) if self.orders else "begin"

    def claim(self, stage, shard):
        self.calls.append(("claim", stage, shard))
        return self.deaths

    def release(self, stage, shard):
        self.calls.append(("release", stage, shard))

    def report_failure(self, cause, *, shard=None, stage=None, wait=False):
        self.calls.append(("report_failure", cause, shard, stage, wait))

    def report_start(self, stage):
        self.calls.append(("report_start", stage))

    def add_notice(self, line):
        self.calls.append(("add_notice", line))


def make_runner(make, deaths, actors=0):
    status, limits = RecordingStatus(deaths), Limits(memory=500_000_000)
    step = Step(name="p", make=make, isolation=ISOLATION, limits=limits, node_status=status, actors=actors)
    return StageRunner(step), status


CLAIMED, RELEASED = ("claim", "p", "s/000007"), ("release", "p", "s/000007")


def test_a_shard_on_which_a_process_died_runs_in_a_subprocess():
    """In this process, the row would kill the test."""
    runner, status = make_runner(Poisoned, deaths=1)
    assert runner(batch("a", "kill"))["status"].to_pylist() == ["success", "crashed"]
    assert status.calls == [CLAIMED, RELEASED]


def test_any_other_shard_runs_in_this_process():
    runner, status = make_runner(Poisoned, deaths=0)
    runner.stage = lambda rows: rows  # a subprocess would build a stage that dies
    assert runner(batch("kill")).num_rows == 1
    assert status.calls == [CLAIMED, RELEASED]


@pytest.mark.parametrize("deaths", [0, 1])
def test_a_shard_that_fails_with_an_exception_is_released_and_reported(deaths):
    runner, status = make_runner(Poisoned, deaths)
    with pytest.raises(ValueError, match="cannot process it"):
        runner(batch(*["raise"] * 4))
    failure = ("report_failure", "p: ValueError: cannot process it", "s/000007", "p", False)
    assert status.calls == [CLAIMED, RELEASED, failure]


def test_a_reported_cause_is_one_line():
    class Raises:
        def __call__(self, batch):
            raise OSError("first\n  second")

    status = RecordingStatus(0)
    with pytest.raises(OSError, match="first"):
        StageRunner(Step(name="p", make=Raises, node_status=status))(batch("a"))
    assert status.calls == [("report_failure", "p: OSError: first second", None, "p", False)]


def test_an_exceeded_memory_limit_is_reported_before_the_process_exits():
    runner, status = make_runner(Poisoned, deaths=0)
    runner.watchdog.on_limit_exceeded("used 2.0 GB of memory")
    assert status.calls == [
        ("report_failure", "p: the worker process used 2.0 GB of memory", None, None, True)
    ]


def test_a_table_without_rows_passes_through():
    runner, status = make_runner(Poisoned, deaths=0)
    runner.stage = lambda rows: pytest.fail("the stage was called")
    assert runner(batch().slice(0, 0)).num_rows == 0 and status.calls == []


@pytest.mark.parametrize(("begins", "rows"), [(True, 0), (False, 2)])
@pytest.mark.parametrize("kind", ["read", "map"])
def test_only_first_steps_skip_shards_while_the_chain_drains(kind, begins, rows):
    status = RecordingStatus(0)
    status.orders = ["skip"]
    step = Step(name="p", make=Poisoned, kind=kind, begins=begins, isolation=ISOLATION, node_status=status)
    assert StageRunner(step)(batch("a", "b")).num_rows == rows
    assert StageRunner(step)(batch("a", "b")).num_rows == 2


@pytest.mark.parametrize(
    ("actors", "orders", "left", "rows"),
    [
        (1, ["hold", "hold", "begin", "x"], ["x"], 2),
        (1, ["hold", "skip", "x"], ["x"], 0),
        (0, ["hold", "x"], ["x"], 2),  # a task would hold a CPU that others need
    ],
)
def test_a_first_step_with_actors_waits_while_the_chain_holds(monkeypatch, actors, orders, left, rows):
    monkeypatch.setattr(steps_module, "HOLD_POLL_S", 0)
    status = RecordingStatus(0)
    status.orders = list(orders)
    step = Step(name="p", make=Poisoned, actors=actors, begins=True, node_status=status)
    assert StageRunner(step)(batch("a", "b")).num_rows == rows
    assert status.orders == left


@pytest.mark.parametrize("kind", ["read", "map", "write"])
def test_seconds_are_added_to_the_rows(kind):
    out = StageRunner(Step(name="p", make=Poisoned, kind=kind))(batch("a", "b"))
    first, second = out["seconds_p"].to_pylist()
    assert first == second > 0 and out.schema.field("seconds_p").type == pa.float32()


@pytest.mark.parametrize(("actors", "calls"), [(0, []), (2, [("report_start", "p")])])
def test_long_lived_process_reports_its_start(actors, calls):
    _, status = make_runner(Poisoned, deaths=0, actors=actors)
    assert status.calls == calls


class RaisesOnC3:
    def __call__(self, batch):
        rows = batch.to_pylist()
        if any(row["caption"] == "c3" and row["status"] == "success" for row in rows):
            raise ValueError("cannot process c3")
        return batch


class ShardwisePart:
    """A reader or writer that passes the shard on, or fails for a reason that no row has caused."""

    def __init__(self, fails=False):
        self.fails = fails

    def __call__(self, batch):
        return self.shardwise(RaisesOnC3()(batch))

    def shardwise(self, batch):
        if self.fails:
            raise OSError("No space left on device")
        return batch


@pytest.mark.parametrize("kind", ["read", "write"])
def test_only_rows_that_the_rowwise_part_cannot_process_fail(kind):
    step = Step(name=kind, make=ShardwisePart, kind=kind, rowwise=RaisesOnC3, isolation=ISOLATION)
    out = StageRunner(step)(batch(*(f"c{i}" for i in range(16))))
    assert [r["key"] for r in out.to_pylist() if r["status"] == "internal"] == ["3"]
    assert out["error_message"][3].as_py() == "ValueError: cannot process c3"


@pytest.mark.parametrize("kind", ["read", "write"])
def test_a_full_disk_is_not_blamed_on_a_row(kind):
    make = partial(ShardwisePart, fails=True)
    step = Step(name=kind, make=make, kind=kind, rowwise=Poisoned, isolation=ISOLATION)
    with pytest.raises(OSError, match="No space left"):
        StageRunner(step)(batch("a"))


@pytest.mark.parametrize(
    ("kind", "order"), [("read", ["shardwise", "rowwise"]), ("write", ["rowwise", "shardwise"])]
)
def test_a_reader_starts_and_a_writer_ends_with_the_shardwise_part(kind, order):
    calls = []
    stage = SimpleNamespace(shardwise=lambda batch: calls.append("shardwise") or batch)
    rowwise = lambda batch: calls.append("rowwise") or batch  # noqa: E731
    StageRunner(Step(name=kind, make=lambda: stage, kind=kind, rowwise=lambda: rowwise))(batch("a"))
    assert calls == order


def test_without_a_rowwise_part_the_stage_itself_is_called():
    step = Step(name="write", make=ShardwisePart, kind="write", isolation=ISOLATION)
    with pytest.raises(ValueError, match="cannot process c3"):
        StageRunner(step)(batch("c3", "a"))


def test_a_rowwise_part_requires_a_shardwise_one():
    with pytest.raises(TypeError, match="step read: `rowwise` requires a stage with a method `shardwise`"):
        StageRunner(Step(name="read", make=Poisoned, kind="read", rowwise=Poisoned))


def test_notices_are_sent_with_the_name_of_the_step():
    class Sends:
        def on_notice(self, callback):
            self.callback = callback

        def __call__(self, batch):
            self.callback("half the batch size")
            return batch

    status = RecordingStatus(0)
    StageRunner(Step(name="caption", make=Sends, node_status=status))(batch("a"))
    assert status.calls == [("add_notice", "caption: half the batch size")]


def test_demand_is_the_sum_over_all_actors():
    steps = [
        Step(name="read", make=object, kind="read"),
        Step(name="fetch", make=object, actors=2, cpus=0.5),
        Step(name="caption", make=object, actors=3, cpus=0.0, gpus=0.5),
    ]
    assert chain_demand(steps) == Demand(cpus=1.0, gpus=1.5)
    steps[1] = Step(name="fetch", make=object, actors=2, cpus=0.5, labels={"pool": "download"})
    assert chain_demand(steps) == Demand(cpus=1.0, gpus=1.5, fetch_cpus=1.0)


@pytest.mark.parametrize(
    ("shards", "failures"), [(0, 0), (1, 0), (3, 0), (4, 3), (99, 3), (100, 4), (2000, 23)]
)
def test_failed_blocks_that_an_execution_tolerates(shards, failures):
    context = chain_context(shards)
    assert context.max_errored_blocks == failures
    assert context.target_max_block_size is None
    assert context is not ray.data.DataContext.get_current()


class Executions:
    """Stands for `ray.data.from_items` and its datasets: records the steps and returns the items."""

    def __init__(self):
        self.sizes, self.calls, self.callbacks = [], [], []

    def from_items(self, items, override_num_blocks):
        assert override_num_blocks == len(items)
        self.sizes.append(len(items))
        self.callbacks.append(ray.data.DataContext.get_current().custom_execution_callback_classes)
        self.items = items
        return self

    def map_batches_internal(self, function, **options):
        self.calls.append((function, options))
        return self

    def set_name(self, name):
        self.name = name

    def iter_batches(self, **options):
        assert options["batch_size"] is None
        return iter([pa.Table.from_pylist([item]) for item in self.items])


@pytest.fixture
def executions(monkeypatch):
    made = Executions()
    monkeypatch.setattr(engine.ray.data, "from_items", made.from_items)
    return made


def test_a_chain_is_executed_in_segments(executions):
    items = [{"shard": i} for i in range(5)]
    steps = [Step(name="read", make=Poisoned, kind="read"), Step(name="fetch", make=Poisoned, actors=2)]
    assert list(run_chain(items, steps, segment=2, name="fetch")) == items
    assert executions.sizes == [2, 2, 1] and executions.name == "fetch"


def test_a_chain_that_drains_starts_no_further_segment(executions):
    resizing = SimpleNamespace(reason=None, look=print)
    items = [{"shard": i} for i in range(5)]
    chain = run_chain(items, [Step(name="read", make=Poisoned)], segment=2, resizing=resizing)
    done = []
    for item in chain:
        done.append(item)
        if len(done) == 3:
            resizing.reason = "the cluster has grown"
    assert done == items[:4] and executions.sizes == [2, 2], "what was begun is finished"
    watches = [make().watch for callbacks in executions.callbacks for make in callbacks]
    assert watches == [resizing.look] * 2


def test_a_chain_is_executed_without_callbacks_if_nothing_resizes_it(executions):
    list(run_chain([{"shard": 0}], [Step(name="read", make=Poisoned)]))
    assert executions.callbacks == [ray.data.DataContext.get_current().custom_execution_callback_classes]


def test_actors_and_tasks_have_bounded_retries(executions):
    steps = [
        Step(name="read", make=Poisoned, kind="read"),
        Step(name="caption", make=Poisoned, actors=2, gpus=0.5),
    ]
    list(run_chain([{"shard": 0}], steps))
    (task, of_task), (actor, of_actor) = executions.calls
    assert task is run_task and of_task["fn_args"] == (steps[0],)
    assert actor is StageRunner and of_actor["fn_constructor_args"] == (steps[1],)
    assert "num_gpus" not in of_task and of_actor["num_gpus"] == 0.5
    assert of_actor["compute"].max_size == 2
    for limit in (of_task["max_retries"], of_actor["max_restarts"], of_actor["max_task_retries"]):
        assert 0 < limit < 100
    assert of_task["batch_size"] is of_actor["batch_size"] is None


def test_actors_are_placed_by_their_labels(executions):
    labels = {"pool": "download"}
    steps = [Step(name="read", make=Poisoned), Step(name="fetch", make=Poisoned, actors=2, labels=labels)]
    list(run_chain([{"shard": 0}], steps))
    (_, of_task), (_, of_actor) = executions.calls
    assert "label_selector" not in of_task and of_actor["label_selector"] == labels
