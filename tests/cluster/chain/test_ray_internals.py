"""The settings that carry a watch into Ray Data; tests/end_to_end/test_ray_internals.py runs it."""

import pickle
from copy import deepcopy
from types import SimpleNamespace

from ray.data import DataContext

from capfilt.cluster.chain.ray_internals import ExecutionState, read_state, watch_executions


def test_executions_share_the_watch_and_workers_get_none():
    """Ray Data copies its settings for each dataset, and pickles them for its workers."""
    context = DataContext.get_current().copy()
    seen = []
    watch_executions(context, seen.append)
    (factory,) = context.custom_execution_callback_classes
    (copied,) = deepcopy(context).custom_execution_callback_classes
    for callback in (factory(), copied()):
        callback.on_execution_step(SimpleNamespace(_topology={}))
    assert seen == [ExecutionState(0, ())] * 2
    # Workers run executions of their own, if a training starts while a chain runs.
    pickle.loads(pickle.dumps(factory))().on_execution_step(SimpleNamespace(_topology={}))
    assert len(seen) == 2


def test_the_state_counts_tasks_of_all_operators_and_blocks_before_each_map():
    class Operator(SimpleNamespace):
        __hash__ = object.__hash__

    source = Operator(metrics=SimpleNamespace(num_tasks_finished=1), input_dependencies=[])
    first = Operator(metrics=SimpleNamespace(num_tasks_finished=3), input_dependencies=[source])
    second = Operator(metrics=SimpleNamespace(num_tasks_finished=2), input_dependencies=[first])
    states = {
        each: SimpleNamespace(total_enqueued_input_blocks=lambda n=n: n)
        for n, each in ((9, source), (7, first), (4, second))
    }
    assert read_state(SimpleNamespace(_topology=states)) == ExecutionState(6, (7, 4))
