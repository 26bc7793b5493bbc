"""The table of an ablation, printed."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from capfilt.pipeline.evaluation.ablation import SeedScores, Spread, build_ablation

ABLATION_COLUMNS = ("itc_tr@1", "itc_ir@1", "tr@1", "ir@1", "cider")


def print_ablation(console: Console, scores: Mapping[int, SeedScores]) -> None:
    """Print the table of an ablation: a row per model, and how far the method is ahead of each other one.

    Figures are the mean over the seeds ± the standard deviation of one seed.
    """
    rows = build_ablation(scores)
    sources = dict.fromkeys(name.partition(" ")[0] for row in rows for name in row.scores if " " in name)
    for prefix in ("", *(f"{source} " for source in sources)):
        names = [f"{prefix}{name}" for name in ABLATION_COLUMNS]
        names = [name for name in names if any(name in row.scores for row in rows)]
        title = (
            f"test source {prefix.strip()}"
            if prefix
            else f"all test images, seeds {', '.join(map(str, scores))}"
        )
        table = Table(title=title, title_justify="left", title_style="dim", box=None, pad_edge=False)
        table.add_column("bootstrapped")
        for name in names:
            table.add_column(name.removeprefix(prefix).replace("_", " "), justify="right")
        for row in rows:
            table.add_row(row.texts, *(_spread(row.scores.get(name)) for name in names))
        for row in (row for row in rows if row.lead):
            leads = (_spread(row.lead.get(name), sign="+") for name in names)
            table.add_row(f"both - {row.texts}", *leads, style="bold")
        console.print(table)


def _spread(found: Spread | None, sign: str = "") -> str:
    if found is None:
        return "-"
    deviation = "" if found.deviation is None else f" ± {found.deviation:.1f}"
    return f"{found.mean:{sign}.1f}{deviation}"
