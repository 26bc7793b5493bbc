"""Noise ratios by a property of the candidates, printed."""

from __future__ import annotations

import io
from itertools import groupby

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from capfilt.stages.storage.store import Store

MOST_ROWS = 30
"""Rows of a table."""
MOST_CHARS = 40
"""Characters of a value that are shown."""


def print_groups(console: Console, store: Store, folder: str) -> None:
    """Print the tables of a report's groups.parquet.

    Args:
        store: the run directory.
        folder: of the report.
    """
    place = f"{folder}/groups.parquet"
    rows = pq.read_table(io.BytesIO(store.read(place))).to_pylist()
    for name, of_name in groupby(rows, key=lambda row: row["by"]):
        listed = list(of_name)
        table = Table(box=None, pad_edge=False)
        table.add_column(name)
        table.add_column("origin")
        for title in ("judged", "dropped", "noise ratio", "95 % interval"):
            table.add_column(title, justify="right")
        for row in listed[:MOST_ROWS]:
            is_judged = row["noise_ratio"] is not None
            table.add_row(
                Text("–" if row["value"] is None else row["value"][:MOST_CHARS]),
                row["origin"],
                f"{row['judged']:,}",
                f"{row['dropped']:,}",
                f"{row['noise_ratio']:.4f}" if is_judged else "-",
                f"{row['noise_low']:.3f} to {row['noise_high']:.3f}" if is_judged else "-",
            )
        console.print(table)
        if len(listed) > MOST_ROWS:
            more = f"{len(listed) - MOST_ROWS:,} more rows in {store.address(place)}"
            console.print(more, highlight=False, markup=False, soft_wrap=True)
        console.print()
