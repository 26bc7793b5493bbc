"""Rows on which a stage raises fail alone; a stage that raises on all of them is broken itself."""

import pyarrow as pa
import pytest

from cluster.engine import Isolation, RowsLost, StageRunner, Step
from stages.rows import ROW_SCHEMA, failed, live, table_of, with_column


class Picky:
    """Adds a column; raises on rows whose caption it does not like."""

    def __init__(self, bad):
        self.bad, self.calls = bad, 0

    def __call__(self, batch):
        self.calls += 1
        for status, caption in zip(batch["status"].to_pylist(), batch["caption"].to_pylist(), strict=True):
            if status == "success" and caption in self.bad:
                raise ValueError(f"cannot stand {caption}")
        return with_column(batch, "length", [len(c) for c in batch["caption"].to_pylist()], pa.int64())


def batch(rows=16, status="success"):
    return table_of(
        [{"key": str(i), "caption": f"c{i}", "status": status, "image": b"x"} for i in range(rows)],
        ROW_SCHEMA,
    )


ISOLATION = Isolation(failed, live)


def runner(stage, isolation=ISOLATION):
    return StageRunner(Step(name="picky", make=lambda: stage, isolation=isolation))


@pytest.mark.parametrize("bad", [("c0",), ("c15",), ("c3", "c4", "c11"), ("c0", "c1", "c2")])
def test_only_the_guilty_rows_fail(bad):
    out = runner(Picky(bad))(batch())
    assert out.num_rows == 16 and out["key"].to_pylist() == [str(i) for i in range(16)]
    for row in out.to_pylist():
        guilty = row["caption"] in bad
        assert row["status"] == ("internal" if guilty else "success")
        assert row["error_message"] == (f"ValueError: cannot stand {row['caption']}" if guilty else None)
        assert (row["image"] is None) == guilty
        assert row["length"] == len(row["caption"]) and row["seconds_picky"] > 0


def test_one_guilty_row_costs_a_halving_not_a_row_by_row_search():
    stage = Picky(("c5",))
    runner(stage)(batch(64))
    assert stage.calls <= 2 * 6 + 2


def test_a_stage_that_raises_on_every_row_is_broken():
    with pytest.raises(ValueError, match="cannot stand c0"):
        runner(Picky([f"c{i}" for i in range(16)]))(batch())


def test_a_lone_row_is_guilty_itself():
    assert runner(Picky(("c0",)))(batch(1))["status"].to_pylist() == ["internal"]


def test_without_isolation_errors_go_up():
    with pytest.raises(ValueError, match="cannot stand"):
        runner(Picky(("c1",)), isolation=None)(batch())


def test_lost_rows_are_never_the_rows_fault():
    class Loses:
        def __call__(self, batch):
            return batch.slice(1)

    with pytest.raises(RowsLost, match="got 16 rows and returned 15"):
        runner(Loses())(batch())


def test_a_table_without_rows_passes_through():
    stage = Picky(())
    assert runner(stage)(batch(0)).num_rows == 0 and stage.calls == 0
