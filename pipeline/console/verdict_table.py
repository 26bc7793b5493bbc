"""The closing block of `capfilt rejudge`: what a set of verdicts keeps, beside what the run kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from capfilt.pipeline.console.commands import shell_command
from capfilt.pipeline.console.summary import print_fields

if TYPE_CHECKING:
    from capfilt.pipeline.maintenance.rejudge import Rejudged


def print_rejudged(console: Console, found: Rejudged, run_dir: str, overrides: Sequence[str]) -> None:
    """Print what a set keeps, the thresholds of its shares, and where it is.

    Args:
        run_dir: RUN as it was given.
        overrides: of `--set`, for the commands that are printed.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("origin")
    for title in ("judged", "run keeps", f"{found.set.name} keeps"):
        table.add_column(title, justify="right")
    for origin, verdicts in sorted(found.set.verdicts.items(), reverse=True):  # web before synthetic
        judged = verdicts.get("kept", 0) + verdicts.get("dropped", 0)
        run = found.run.get(origin, {})
        table.add_row(origin, f"{judged:,}", _share(run, judged), _share(verdicts, judged))
    console.print(table)
    named = found.set
    fields = [("policy", str(named.policy))]
    for cut in named.cuts:
        group = ", ".join(f"{column} {value}" for column, value in cut.group.items())
        place = f"{cut.rule}{f' ({group})' if group else ''}"
        fields.append(("threshold", f"{place}: {cut.cut:.6g} keeps {cut.kept:,} of {cut.judged:,}"))
    if found.is_remade:
        fields.append(("made again", f"the candidates of round {named.round} had changed since"))
    elif not found.judged:
        fields.append(("unchanged", "the set was complete"))
    words = ["capfilt", "report", run_dir, "--verdicts", named.name]
    fields += [
        ("verdicts", f"{run_dir}/verdicts/{named.name}/{named.round}/"),
        ("look", shell_command(words, overrides)),
    ]
    print_fields(console, fields)


def _share(verdicts: Mapping[str, int], judged: int) -> str:
    """`1,234 (56.7 %)`."""
    kept = verdicts.get("kept", 0)
    return f"{kept:,} ({kept / judged:.1%})" if judged else f"{kept:,}"
