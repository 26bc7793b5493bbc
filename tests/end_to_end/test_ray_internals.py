"""What capfilt needs of Ray Data beyond its public form, on the installed Ray."""

import pyarrow as pa
import pytest
import ray

from capfilt.cluster.chain.ray_internals import map_whole_blocks, watch_executions

SIZES = [5, 1, 3, 8, 2, 1]


def count_rows(table):
    return pa.table({"rows": [table.num_rows]})


def blocks():
    return ray.data.from_arrow([pa.table({"x": list(range(size))}) for size in SIZES])


def test_blocks_are_mapped_whole_and_the_watch_sees_them(ray_session):
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    seen = []
    watch_executions(context, seen.append)
    with ray.data.DataContext.current(context):
        counted = map_whole_blocks(blocks(), count_rows, num_cpus=0.5)
        rows = map_whole_blocks(counted, count_rows, num_cpus=0.25).take_all()
    assert [row["rows"] for row in rows] == [1] * len(SIZES)
    assert {len(state.waiting) for state in seen} == {2}, "one for each map"
    assert max(state.finished for state in seen) <= 2 * len(SIZES)
    finished = [state.finished for state in seen]
    assert finished == sorted(finished) and seen[0].waiting[0] <= len(SIZES)


def test_the_public_form_still_needs_a_batch_size_on_gpus(ray_session):
    """Once it does not, it replaces the private one."""
    map_whole_blocks(blocks(), count_rows, num_gpus=1)  # is not executed
    with pytest.raises(ValueError, match="batch_size"):
        blocks().map_batches(count_rows, batch_size=None, batch_format="pyarrow", num_gpus=1)
