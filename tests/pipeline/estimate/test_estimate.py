"""Times, bytes and prices of a plan against numbers computed by hand, and numpy and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from capfilt.pipeline.estimate.assemble import plan_money
from capfilt.pipeline.estimate.costs import fit_cost
from capfilt.pipeline.estimate.measured import Machines
from capfilt.pipeline.estimate.nodes import (
    StageLoad,
    Task,
    Work,
    bottleneck,
    chain_seconds,
    node_seconds,
    schedule,
    shared_work,
    training_work,
)
from capfilt.pipeline.estimate.spans import Span, mean_span
from capfilt.pipeline.probe.measure import step_seconds
from capfilt.pipeline.probe.sample import shard_sizes


def test_interval_of_a_mean():
    low, high = stats.t.interval(0.95, 2, loc=2.0, scale=stats.sem([1.0, 2.0, 3.0]))
    found = mean_span([1.0, 2.0, 3.0])
    assert (found.value, found.value - found.error, found.value + found.error) == pytest.approx(
        (2, low, high)
    )
    assert found.low == 0.0, "nothing is negative"
    assert mean_span([4.0]) == Span(4.0) and mean_span([]) == Span(0.0)


def test_errors_of_sums_add_in_quadrature():
    assert Span(1, 3) + Span(2, 4) == Span(3, 5)
    assert Span(1, 3) * 2 == Span(2, 6)


def test_cost_of_a_shard_is_told_from_that_of_a_row():
    measured = [(10, 12.0), (20, 22.0), (30, 31.0), (40, 43.0)]
    line = stats.linregress(*np.transpose(measured))
    found = fit_cost(measured)
    assert (found.shard, found.row) == pytest.approx((line.intercept, line.slope))
    total = found.total(1, 0)
    assert total.error == pytest.approx(stats.t.ppf(0.975, 2) * line.intercept_stderr)
    assert found.total(0, 1).error == pytest.approx(stats.t.ppf(0.975, 2) * line.stderr)
    assert found.total(3, 100).value == pytest.approx(3 * 1.5 + 102)


def test_no_part_of_a_cost_is_negative():
    through_origin = fit_cost([(10, 5.0), (20, 20.0)])
    assert through_origin.shard == 0 and through_origin.row == pytest.approx((50 + 400) / 500)
    flat = fit_cost([(10, 5.0), (20, 3.0)])
    assert flat.row == 0 and flat.shard == pytest.approx(4)
    equal_sizes = fit_cost([(10, 5.0), (10, 7.0)])
    assert equal_sizes.shard == 0 and equal_sizes.row == pytest.approx(0.6)
    assert fit_cost([(10, 5.0)]).total(2, 20) == Span(10.0)


def test_the_slowest_stage_determines_a_chain():
    stages = [
        StageLoad(name="fetch", busy=Span(40.0), processes=2, computes=False),
        StageLoad(name="caption", busy=Span(60.0), processes=2, computes=False),
    ]
    assert chain_seconds(stages, 10, cores=1).value == 30 + 4
    assert bottleneck(stages, 10) == "caption"
    assert chain_seconds(stages, 1, cores=1).value == 60 + 40, "a single shard has one process of each"
    assert chain_seconds([], 1, 1) == Span(0.0) and bottleneck([], 1) is None


def test_stages_that_compute_share_the_cores():
    stages = [StageLoad(name=name, busy=Span(60.0), processes=4) for name in ("caption", "filter", "read")]
    assert chain_seconds(stages, 100, cores=2).value == 90


def test_threads_of_a_process_divide_the_work_of_a_shard():
    stages = [
        StageLoad(name="caption", busy=Span(60.0), processes=2, threads=3),
        StageLoad(name="read", busy=Span(12.0), processes=2),
    ]
    assert chain_seconds(stages, 2, cores=8).value == 60 / 2 / 3 + 12 / 2
    assert chain_seconds(stages, 1, cores=8).value == 60 / 3 + 12
    assert chain_seconds(stages, 2, cores=4).value == (60 + 12) / 4, "there are no more cores"
    assert bottleneck(stages, 2) == "caption"
    assert bottleneck([stages[0], StageLoad(name="write", busy=Span(21.0), processes=2)], 2) == "write"


def test_what_does_not_grow_is_the_rest_of_the_small_run():
    work = training_work([0.5, 0.5], 40, Span(1000))
    assert node_seconds(30.0, work) == Span(10 + 500)
    assert node_seconds(1.0, Work(probed=Span(2.0), planned=Span(5.0))) == Span(5.0), (
        "never less than nothing"
    )


def test_parts_run_side_by_side():
    work = shared_work({"a": 4.0, "b": 4.0, "c": 4.0}, 2, growth=10)
    assert (work.probed.value, work.planned.value) == (6, 60)
    assert shared_work({"a": 4.0}, 8, growth=2).planned.value == 8
    assert shared_work({}, 2, growth=10).planned == Span(0.0)


def test_nodes_wait_for_what_they_need_and_for_room():
    tasks = [
        Task(name="a", seconds=Span(10)),
        Task(name="b", seconds=Span(5, 3), needs=("a",), cpus=2),
        Task(name="c", seconds=Span(7, 4), needs=("a", "gone"), cpus=2),
    ]
    tight = schedule(tasks, cpus=2, gpus=0)
    assert tight.seconds == Span(22, 5) and tight.path == ["a", "b", "c"]
    roomy = schedule(tasks, cpus=4, gpus=0)
    assert roomy.seconds == Span(17, 4) and roomy.path == ["a", "c"]
    assert schedule(tasks, cpus=1, gpus=0).seconds.value == 22, "more than there is becomes all there is"
    assert schedule([], 1, 0).seconds == Span(0.0)


def test_price_is_that_of_the_whole_cluster():
    machines = Machines(cpus=64, gpus=8, cores=32)
    assert plan_money(Span(7200, 3600), machines, 2.0, 0.5) == Span(2 * (16 + 16), 32)
    assert plan_money(Span(7200), machines, None, None) is None


def test_shards_of_a_sample_differ_in_size():
    assert shard_sizes(256) == [16, 16, 16, 16, 64, 64, 64]
    for rows in range(1, 100):
        assert sum(shard_sizes(rows)) == rows and min(shard_sizes(rows)) > 0


def test_first_pieces_of_a_training_do_not_count():
    log = [{"time": math.floor(step / 2), "samples_per_second": 10.0 * (step // 2 + 1)} for step in range(10)]
    assert step_seconds(log, batch_size=40) == [1.0, 0.8]
    assert step_seconds(log[:2], batch_size=40) == [4.0]
