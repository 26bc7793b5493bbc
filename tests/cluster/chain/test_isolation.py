"""Rows on which a stage raises fail alone; a stage that raises on all of them is broken itself."""

from functools import partial

import pyarrow as pa
import pytest

from capfilt.cluster.chain.engine import StageRunner, Step
from capfilt.cluster.chain.isolation import DEATHS, Broken, ProcessDied, RowsLost, Search
from capfilt.models.out_of_memory import OutOfMemory
from capfilt.pipeline.nodes.chain import ISOLATION
from capfilt.stages.rows import ROW_SCHEMA, table_of, with_column
from capfilt.stages.storage.store import StoreError


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


def test_a_stage_that_exits_raises():
    class Exits:
        def __call__(self, batch):
            if "c3" in batch["caption"].to_pylist() and batch["status"][0].as_py() == "success":
                raise SystemExit(3)
            return batch

    out = runner(Exits())(batch())
    assert [r["key"] for r in out.to_pylist() if r["status"] != "success"] == ["3"]
    assert out["error_message"][3].as_py() == "RuntimeError: SystemExit: 3"


class Ends:
    """A reader and a writer: row by row picky, for the whole shard they count or fail."""

    def __init__(self, fails=False):
        self.fails = fails

    def shardwise(self, given):
        if self.fails:
            raise OSError("No space left on device")
        return given


@pytest.mark.parametrize("kind", ["read", "write"])
def test_rows_that_a_reader_or_writer_cannot_take_fail_alone(kind):
    step = Step(name=kind, make=Ends, kind=kind, rowwise=lambda: Picky(("c3",)), isolation=ISOLATION)
    out = StageRunner(step)(batch())
    assert [r["key"] for r in out.to_pylist() if r["status"] == "internal"] == ["3"]
    assert out["error_message"][3].as_py() == "ValueError: cannot stand c3"


@pytest.mark.parametrize("kind", ["read", "write"])
def test_no_row_is_blamed_for_a_full_disk(kind):
    make = partial(Ends, fails=True)
    step = Step(name=kind, make=make, kind=kind, rowwise=lambda: Picky(()), isolation=ISOLATION)
    with pytest.raises(OSError, match="No space left"):
        StageRunner(step)(batch())


@pytest.mark.parametrize(
    "error", [StoreError("s3://b/a.jpg: cannot read it"), OutOfMemory("even one at a time")]
)
@pytest.mark.parametrize("searched", [False, True])
def test_no_row_is_blamed_for_a_store_that_is_away_or_a_machine_without_memory(error, searched):
    class Short(Picky):
        def __call__(self, given):
            rows = given["caption"].to_pylist()
            if "c5" in rows and not (searched and "c9" in rows):
                raise error
            return super().__call__(given)

    with pytest.raises(type(error)):
        runner(Short(("c9",)))(batch())


class Ends404(Picky):
    """A stage that has ended rows itself, as `fetch` does with dead links, before it comes to the bad one."""

    def __init__(self, bad, dies):
        super().__init__(bad)
        self.dies = dies

    def __call__(self, given):
        pending = [s == "pending" for s in given["status"].to_pylist()]
        if any(p and c in self.bad for p, c in zip(pending, given["caption"].to_pylist(), strict=True)):
            raise ProcessDied("its process died of SIGSEGV") if self.dies else ValueError("cannot")
        status = ["http_404" if p else s for p, s in zip(pending, given["status"].to_pylist(), strict=True)]
        return with_column(given, "status", status, pa.string())


@pytest.mark.parametrize("dies", [False, True])
def test_rows_that_the_stage_has_ended_itself_are_not_those_it_failed_on(dies):
    """A shard of dead links with one picture that the decoder cannot take."""
    out = Search("fetch", Ends404(("c2",), dies), ISOLATION).run(batch(5, status="pending"))
    guilty = "crashed" if dies else "internal"
    assert out["status"].to_pylist() == ["http_404", "http_404", guilty, "http_404", "http_404"]


class Deadly:
    """Stands for a stage in a process apart: it dies of some rows, and sometimes without their fault."""

    def __init__(self, bad, *, hangs=(), outside=()):
        self.bad, self.hangs, self.outside = bad, hangs, set(outside)
        self.calls = self.deaths = 0

    def __call__(self, batch):
        self.calls += 1
        rows = [r["caption"] for r in batch.to_pylist() if r["status"] == "success"]
        if self.calls in self.outside or set(rows) & set(self.bad):
            self.deaths += 1
            raise ProcessDied("its process died of SIGKILL")
        if set(rows) & set(self.hangs):
            self.deaths += 1
            raise ProcessDied("no progress for 9 s", certain=True)
        return with_column(batch, "length", [len(c) for c in batch["caption"].to_pylist()], pa.int64())


def search(stage, rows):
    return Search("deadly", stage, ISOLATION).run(batch(rows)).to_pylist()


@pytest.mark.parametrize("bad", [(0,), (999,), (3, 4, 500), (17, 130, 131, 132, 133, 877)])
def test_rows_that_kill_are_found_among_a_thousand(bad):
    stage = Deadly([f"c{i}" for i in bad])
    rows = search(stage, 1000)
    assert [r["key"] for r in rows] == [str(i) for i in range(1000)]
    assert [int(r["key"]) for r in rows if r["status"] == "crashed"] == list(bad)
    assert all(r["status"] == "success" and r["image"] for r in rows if int(r["key"]) not in bad)
    of_first = rows[bad[0]]
    assert (
        of_first["error_message"] == "deadly: its process died of SIGKILL, twice with this row alone"
        and of_first["image"] is None
    )
    assert all(r["length"] == len(r["caption"]) for r in rows)
    # Whole, an eighth, a sixty-fourth, a pair, then twice alone; what rows have in common costs once.
    assert stage.deaths <= 1 + 5 * len(bad)


def test_a_row_that_hangs_is_tried_alone_once():
    stage = Deadly((), hangs=("c5",))
    rows = search(stage, 8)
    assert [r["key"] for r in rows if r["status"] == "crashed"] == ["5"] and stage.deaths == 2
    assert rows[5]["error_message"] == "deadly: no progress for 9 s, with this row alone"


@pytest.mark.parametrize("calls", [(1,), (1, 2), (1, 2, 3), (1, 5)])
def test_deaths_from_outside_blame_no_row(calls):
    """Whole batch, a part, or a row alone: killed once each, and not when it is tried again."""
    assert {r["status"] for r in search(Deadly((), outside=calls), 16)} == {"success"}


def test_a_stage_that_dies_of_every_row_is_broken():
    stage = Deadly([f"c{i}" for i in range(1000)])
    with pytest.raises(Broken, match="died of SIGKILL, whatever row it has"):
        search(stage, 1000)
    assert stage.deaths < DEATHS / 2
    with pytest.raises(Broken, match="whatever row it has"):
        search(Deadly([f"c{i}" for i in range(5)]), 5)


def test_a_search_that_costs_too_many_deaths_is_given_up():
    stage = Deadly([f"c{i}" for i in range(5, 1000, 50)])
    with pytest.raises(Broken, match=f"{DEATHS} deaths are too many"):
        search(stage, 1000)
    assert stage.deaths == DEATHS + 1


def test_a_row_that_raises_where_it_killed_before_fails_as_that():
    class Changes(Deadly):
        def __call__(self, batch):
            first = batch.slice(0, 1).to_pylist()[0]
            if self.deaths == 2 and first["caption"] == "c1" and first["status"] == "success":
                raise ValueError("not a picture")
            return super().__call__(batch)

    rows = search(Changes(("c1",)), 8)
    assert [(r["key"], r["status"]) for r in rows if r["status"] != "success"] == [("1", "internal")]
