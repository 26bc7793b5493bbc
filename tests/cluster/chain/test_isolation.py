"""Only the rows on which a stage fails are marked; a stage that fails on all rows is broken itself."""

import pyarrow as pa
import pytest

from capfilt.cluster.chain.isolation import (
    BROKEN_STAGE_MIN_ROWS,
    MAX_DEATHS,
    ProcessDied,
    RowIsolator,
    RowsLost,
    StageBroken,
)
from capfilt.cluster.chain.steps import StageRunner, Step
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.pipeline.nodes.chain import ISOLATION
from capfilt.stages.rows import ROW_SCHEMA, table_of, with_column
from capfilt.stages.storage.store import StoreError


class RaisesOn:
    """Adds a column; raises on active rows with one of the given captions."""

    def __init__(self, bad):
        self.bad, self.sizes = bad, []

    def __call__(self, batch):
        self.sizes.append(batch.num_rows)
        for status, caption in zip(batch["status"].to_pylist(), batch["caption"].to_pylist(), strict=True):
            if status == "success" and caption in self.bad:
                raise ValueError(f"cannot process {caption}")
        return with_column(batch, "length", [len(c) for c in batch["caption"].to_pylist()], pa.int64())


def batch(rows=16, status="success"):
    return table_of(
        [{"key": str(i), "caption": f"c{i}", "status": status, "image": b"x"} for i in range(rows)],
        ROW_SCHEMA,
    )


def captions(rows):
    return [f"c{i}" for i in range(rows)]


def runner(stage, isolation=ISOLATION):
    return StageRunner(Step(name="picky", make=lambda: stage, isolation=isolation))


@pytest.mark.parametrize("bad", [("c0",), ("c15",), ("c3", "c4", "c11"), ("c0", "c1", "c2")])
def test_only_the_offending_rows_fail(bad):
    out = runner(RaisesOn(bad))(batch())
    assert out.num_rows == 16 and out["key"].to_pylist() == [str(i) for i in range(16)]
    for row in out.to_pylist():
        failed = row["caption"] in bad
        assert row["status"] == ("internal" if failed else "success")
        assert row["error_message"] == (f"ValueError: cannot process {row['caption']}" if failed else None)
        assert (row["image"] is None) == failed
        assert row["length"] == len(row["caption"]) and row["seconds_picky"] > 0


def test_one_offending_row_is_found_by_halving():
    stage = RaisesOn(("c5",))
    runner(stage)(batch(64))
    # The last call is that of the marked row.
    assert sorted(stage.sizes, reverse=True) == [64, 32, 32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1, 1]


def test_a_stage_that_raises_on_every_row_is_broken():
    with pytest.raises(ValueError, match="cannot process c0"):
        runner(RaisesOn(captions(16)))(batch())


def test_the_fewest_rows_that_show_a_stage_to_be_broken():
    rows = BROKEN_STAGE_MIN_ROWS
    with pytest.raises(ValueError, match="cannot process c0"):
        runner(RaisesOn(captions(rows)))(batch(rows))
    out = runner(RaisesOn(captions(rows - 1)))(batch(rows - 1))
    assert out["status"].to_pylist() == ["internal"] * (rows - 1)


def test_one_row_that_succeeds_shows_that_the_stage_is_not_broken():
    out = runner(RaisesOn(captions(15)))(batch(16))
    assert out["status"].to_pylist() == ["internal"] * 15 + ["success"]


def test_a_single_row_is_always_at_fault_itself():
    assert runner(RaisesOn(("c0",)))(batch(1))["status"].to_pylist() == ["internal"]


def test_without_isolation_exceptions_propagate():
    with pytest.raises(ValueError, match="cannot process"):
        runner(RaisesOn(("c1",)), isolation=None)(batch())


def test_a_wrong_row_count_is_never_blamed_on_a_row():
    class Loses:
        def __call__(self, batch):
            return batch.slice(1)

    with pytest.raises(RowsLost, match="stage picky received 16 rows and returned 15"):
        runner(Loses())(batch())


def test_a_stage_that_calls_sys_exit_raises():
    class Exits:
        def __call__(self, batch):
            if "c3" in batch["caption"].to_pylist() and batch["status"][0].as_py() == "success":
                raise SystemExit(3)
            return batch

    out = runner(Exits())(batch())
    assert [r["key"] for r in out.to_pylist() if r["status"] != "success"] == ["3"]
    assert out["error_message"][3].as_py() == "RuntimeError: SystemExit: 3"


@pytest.mark.parametrize(
    "error", [StoreError("s3://b/a.jpg: cannot read it"), OutOfMemory("even one at a time")]
)
@pytest.mark.parametrize("during_search", [False, True])
def test_an_unreachable_store_or_lack_of_memory_is_never_blamed_on_a_row(error, during_search):
    class Fails(RaisesOn):
        def __call__(self, given):
            rows = given["caption"].to_pylist()
            if "c5" in rows and not (during_search and "c9" in rows):
                raise error
            return super().__call__(given)

    with pytest.raises(type(error)):
        runner(Fails(("c9",)))(batch())


class MarksOthersItself(RaisesOn):
    """A stage that marks rows as failed itself, as `fetch` does with dead links; fails on the bad ones."""

    def __init__(self, bad, dies):
        super().__init__(bad)
        self.dies = dies

    def __call__(self, given):
        pending = [s == "pending" for s in given["status"].to_pylist()]
        if any(p and c in self.bad for p, c in zip(pending, given["caption"].to_pylist(), strict=True)):
            raise ProcessDied("killed by SIGSEGV") if self.dies else ValueError("cannot")
        status = ["http_404" if p else s for p, s in zip(pending, given["status"].to_pylist(), strict=True)]
        return with_column(given, "status", status, pa.string())


@pytest.mark.parametrize("dies", [False, True])
def test_rows_that_the_stage_marks_itself_do_not_count_as_rows_it_failed_on(dies):
    """A shard of dead links with one image that the decoder cannot process."""
    out = RowIsolator("fetch", MarksOthersItself(("c2",), dies), ISOLATION).run(batch(5, status="pending"))
    failed = "crashed" if dies else "internal"
    assert out["status"].to_pylist() == ["http_404", "http_404", failed, "http_404", "http_404"]


class Deadly:
    """Acts as a stage in a subprocess that dies or hangs on some rows, and dies in some calls."""

    def __init__(self, bad, *, hangs=(), dying_calls=()):
        self.bad, self.hangs, self.dying_calls = bad, hangs, set(dying_calls)
        self.calls = self.deaths = 0

    def __call__(self, batch):
        self.calls += 1
        rows = [r["caption"] for r in batch.to_pylist() if r["status"] == "success"]
        if self.calls in self.dying_calls or set(rows) & set(self.bad):
            self.deaths += 1
            raise ProcessDied("killed by SIGKILL")
        if set(rows) & set(self.hangs):
            self.deaths += 1
            raise ProcessDied("no progress for 9 s", conclusive=True)
        return with_column(batch, "length", [len(c) for c in batch["caption"].to_pylist()], pa.int64())


def isolate(stage, rows):
    return RowIsolator("deadly", stage, ISOLATION).run(batch(rows)).to_pylist()


@pytest.mark.parametrize("bad", [(0,), (999,), (3, 4, 500), (17, 130, 131, 132, 133, 877)])
def test_rows_that_kill_are_found_among_a_thousand(bad):
    stage = Deadly([f"c{i}" for i in bad])
    rows = isolate(stage, 1000)
    assert [r["key"] for r in rows] == [str(i) for i in range(1000)]
    assert [int(r["key"]) for r in rows if r["status"] == "crashed"] == list(bad)
    assert all(r["status"] == "success" and r["image"] for r in rows if int(r["key"]) not in bad)
    first = rows[bad[0]]
    assert first["error_message"] == "deadly: killed by SIGKILL, in two attempts with only this row"
    assert first["image"] is None
    assert all(r["length"] == len(r["caption"]) for r in rows)
    # All rows, an eighth, a 64th, two rows, then twice the row itself; batches that rows share cost one
    # death.
    assert stage.deaths <= 1 + 5 * len(bad)


def test_after_a_death_a_batch_is_split_into_eight():
    stage = Deadly(("c9",))
    isolate(stage, 64)
    # 64 rows, 8 rows, and the row twice. Calls: 1, 8 parts, 8 rows, the second attempt, and the marked row.
    assert (stage.deaths, stage.calls) == (4, 1 + 8 + 8 + 2)


def test_a_row_that_hangs_gets_only_one_attempt_with_only_this_row():
    stage = Deadly((), hangs=("c5",))
    rows = isolate(stage, 8)
    assert [r["key"] for r in rows if r["status"] == "crashed"] == ["5"] and stage.deaths == 2
    assert rows[5]["error_message"] == "deadly: no progress for 9 s, in an attempt with only this row"


@pytest.mark.parametrize("calls", [(1,), (1, 2), (1, 2, 3), (1, 5)])
def test_deaths_for_an_outside_reason_are_not_blamed_on_a_row(calls):
    """All rows, a part, or a single row: the process dies once on each, and not on the next attempt."""
    assert {r["status"] for r in isolate(Deadly((), dying_calls=calls), 16)} == {"success"}


def test_a_stage_whose_process_dies_on_every_row_is_broken():
    stage = Deadly(captions(1000))
    with pytest.raises(StageBroken, match=r"^killed by SIGKILL, on every row$"):
        isolate(stage, 1000)
    # On 1000, 125 and 16 rows, on four pairs of these 16, and two on each of eight rows.
    assert stage.deaths == 3 + 4 + 2 * 2 * BROKEN_STAGE_MIN_ROWS
    with pytest.raises(StageBroken, match="on every row"):
        isolate(Deadly(captions(5)), 5)


def test_rows_that_kill_at_the_start_of_a_shard_do_not_make_the_stage_broken():
    """One fewer than the rows after which the search stops, in a shard whose other rows are fine."""
    bad = 2 * BROKEN_STAGE_MIN_ROWS - 1
    rows = isolate(Deadly(captions(bad)), 1000)
    assert [r["status"] for r in rows] == ["crashed"] * bad + ["success"] * (1000 - bad)


def test_a_row_that_succeeds_keeps_the_search_going():
    """As many crashing rows as would make the stage broken, but the first row of the shard is fine."""
    bad = [f"c{i}" for i in range(1, 2 * BROKEN_STAGE_MIN_ROWS + 1)]
    rows = isolate(Deadly(bad), 9)
    assert [r["status"] for r in rows] == ["success"] + ["crashed"] * len(bad)


def test_parts_without_active_rows_do_not_count_as_a_success():
    """Otherwise one failed row would let the search go on until it stops for too many deaths."""
    rows = pa.concat_tables([batch(1, status="http_404"), batch(100).slice(1)])
    stage = Deadly(captions(100))
    with pytest.raises(StageBroken, match="on every row"):
        RowIsolator("deadly", stage, ISOLATION).run(rows)


def test_the_search_stops_after_too_many_deaths():
    stage = Deadly([f"c{i}" for i in range(5, 1000, 50)])
    with pytest.raises(StageBroken, match=f"stopped after {MAX_DEATHS} process deaths$"):
        isolate(stage, 1000)
    assert stage.deaths == MAX_DEATHS + 1


def test_a_row_that_raises_on_the_second_attempt_fails_with_the_exception():
    class Changes(Deadly):
        def __call__(self, batch):
            first = batch.slice(0, 1).to_pylist()[0]
            if self.deaths == 2 and first["caption"] == "c1" and first["status"] == "success":
                raise ValueError("not an image")
            return super().__call__(batch)

    rows = isolate(Changes(("c1",)), 8)
    assert [(r["key"], r["status"]) for r in rows if r["status"] != "success"] == [("1", "internal")]
    assert rows[1]["error_message"] == "ValueError: not an image"
