"""Two runs made by hand on almost the same corpus: B has other scores, other captions, and another image."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from capfilt.pipeline.comparison.compare import Comparison, compare_runs
from capfilt.pipeline.comparison.run import open_compared
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.rows import CANDIDATE_SCHEMA, table_of
from tests.pipeline.export.exported_run import make_run
from tests.tiny import tiny_data

HOSTILE = "</b><script>alert(1)</script> a [bold]text[/bold]"


@dataclass(frozen=True)
class TwoRuns:
    a: RunDir
    b: RunDir
    found: dict[tuple[str, ...], Comparison] = field(default_factory=dict)

    def compare(self, *by: str) -> Comparison:
        """Their comparison, made once."""
        if by not in self.found:
            self.found[by] = compare_runs(open_compared("A", self.a, 1), open_compared("B", self.b, 1), by)
        return self.found[by]

    @property
    def places(self) -> list[str]:
        return [self.a.store.url, self.b.store.url]


def make_two_runs(folder: Path) -> TwoRuns:
    (folder / "one").mkdir()
    (folder / "two").mkdir()
    a = make_run(folder / "one")
    other_filter = {**tiny_data(folder / "two")["filter"], "judge": {"threshold": 0.25}}
    b = make_run(folder / "two", filter=other_filter)
    for number, file in enumerate(sorted((folder / "two/run/rounds").rglob("*.parquet"))):
        rows = [change(row, number) for row in pq.read_table(file).to_pylist()]
        pq.write_table(table_of(rows, CANDIDATE_SCHEMA), file)
    return TwoRuns(a, b)


def change(row: dict[str, Any], shard: int) -> dict[str, Any]:
    """A candidate of B."""
    number = int(row["key"][-1]) + shard
    changed = dict(row)
    if row["kept"] is not None:
        changed["itm_prob"] = (0.37 * number) % 1
        changed["kept"] = changed["itm_prob"] >= 0.25
    if row["origin"] == "synthetic" and row["caption_index"] == 1:
        changed["text"] = f"another caption of {row['key']}"
    if row["key"].endswith("6"):
        changed["sha256"] = "0" * 64
    return changed | {"threshold": 0.25}
