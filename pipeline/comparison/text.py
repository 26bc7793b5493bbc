"""A comparison, printed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.comparison.compare import Comparison
from capfilt.pipeline.comparison.figures import Figure, Ratio
from capfilt.pipeline.comparison.run import ComparedRun
from capfilt.pipeline.console.summary import print_fields
from capfilt.pipeline.report.formats.values import to_printable
from capfilt.pipeline.report.tables import Row

MOST_ROWS = 30
"""Rows of a table, and settings."""
EXAMPLES = 3
"""Texts with different verdicts of each origin and run."""
MOST_CHARS = 60
"""Characters of a text that are printed."""


def print_comparison(console: Console, found: Comparison) -> None:
    """Print which runs are compared, what differs between their configs, and their figures side by side."""
    for run in (found.a, found.b):
        print_fields(console, [(run.letter, _describe(run)), ("", _models(run))])
    images = found.images
    print_fields(console, [("shared", describe_images(found))])
    if images.differing:
        note = f"{images.differing:,} images of the same key, but other bytes"
        print_fields(console, [("not compared", note)])
    console.print()
    _print_settings(console, found)
    _print_ratios(console, ("source", "origin"), found.ratios)
    _print_ratios(console, ("source", "captioner"), found.captioners)
    for name, ratios in found.groups.items():
        _print_ratios(console, (name, "origin"), ratios)
    _print_ratios(console, ("shared images, origin",), found.shared)
    _print_figures(console, [*found.corpora, *found.filters, *found.texts, *found.models])
    _print_agreements(console, found)
    _print_disagreements(console, found)


def describe_images(found: Comparison) -> str:
    """How many images both runs have judged."""
    images = found.images
    return (
        f"{images.shared:,} images of the same source, key and bytes; A has {images.a:,}, B has {images.b:,}"
    )


def _describe(run: ComparedRun) -> str:
    verdicts = f", verdicts {run.verdicts}: {run.policy}" if run.policy else ""
    return f"{run.address} ({run.name}), round {run.round}{verdicts}"


def _models(run: ComparedRun) -> str:
    return "; ".join(
        f"captioner {row['captioner'] or '–'}, filter {row['filter'] or '–'}"
        + ("" if row["threshold"] is None else f", threshold {row['threshold']:.4g}")
        for row in run.models()
    )


def _print_settings(console: Console, found: Comparison) -> None:
    if not found.settings:
        print_fields(console, [("settings", "the configs are equal")])
        console.print()
        return
    table = _table("setting", left=("A", "B"))
    for setting in found.settings[:MOST_ROWS]:
        table.add_row(Text(setting.key), Text(to_printable(setting.a)), Text(to_printable(setting.b)))
    _print_table(console, table, len(found.settings))


def _print_ratios(console: Console, columns: Sequence[str], ratios: Sequence[Ratio]) -> None:
    if not ratios:
        return
    table = _table(*columns, right=("judged A", "noise A", "judged B", "noise B", "B − A", "95 % interval"))
    for ratio in ratios[:MOST_ROWS]:
        labels = [Text(to_printable(label, 40)) for label in ratio.label]
        interval = "–" if ratio.interval is None else "{:+.3f} to {:+.3f}".format(*ratio.interval)
        table.add_row(
            *labels,
            *_ratio(ratio.a),
            *_ratio(ratio.b),
            _text(ratio.difference, "{:+.4f}".format),
            interval,
        )
    _print_table(console, table, len(ratios))


def _ratio(row: Row | None) -> tuple[str, str]:
    """Judged texts; noise ratio with its interval."""
    if row is None:
        return "–", "–"
    if row["noise_ratio"] is None:
        return f"{row['judged']:,}", "–"
    return (
        f"{row['judged']:,}",
        f"{row['noise_ratio']:.4f} ({row['noise_low']:.3f} to {row['noise_high']:.3f})",
    )


FORMATS: dict[str, Callable[[float], str]] = {
    "count": "{:,}".format,
    "share": "{:.2%}".format,
    "number": "{:.3f}".format,
    "points": "{:.1f}".format,
}
SIGNED: dict[str, Callable[[float], str]] = {
    "count": "{:+,}".format,
    "share": lambda value: f"{100 * value:+.2f} points",
    "number": "{:+.3f}".format,
    "points": "{:+.1f}".format,
}


def _print_figures(console: Console, figures: Sequence[Figure]) -> None:
    table = _table("figure", right=("A", "B", "B − A"))
    for figure in figures:
        shown, signed = FORMATS[figure.kind], SIGNED[figure.kind]
        table.add_row(
            figure.label, _text(figure.a, shown), _text(figure.b, shown), _text(figure.difference, signed)
        )
    _print_table(console, table, len(figures), most=len(figures))


def _print_agreements(console: Console, found: Comparison) -> None:
    table = _table(
        "same text", right=("judged by both", "agree", "both keep", "only A", "only B", "both drop")
    )
    for row in found.agreements:
        counts = [f"{n:,}" for n in (row.kept, row.only_a, row.only_b, row.dropped)]
        table.add_row(row.origin, f"{row.texts:,}", _text(row.share, "{:.1%}".format), *counts)
    _print_table(console, table, len(found.agreements))


def _print_disagreements(console: Console, found: Comparison) -> None:
    table = _table("kept by", left=("origin", "image", "text"), right=("ITM in A", "ITM in B"))
    places: dict[tuple[str, str], int] = {}
    for each in found.disagreements:
        group = (each.origin, each.kept_by)
        places[group] = places.get(group, 0) + 1
        if places[group] <= EXAMPLES:
            text = Text(to_printable(" ".join(each.text.split()), MOST_CHARS))
            image = Text(f"{each.source}/{each.key}")
            table.add_row(f"{each.kept_by} only", each.origin, image, text, f"{each.a:.3f}", f"{each.b:.3f}")
    if table.row_count:
        _print_table(console, table, table.row_count)


def _table(*names: str, left: Sequence[str] = (), right: Sequence[str] = ()) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in (*names, *left):
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_table(console: Console, table: Table, rows: int, most: int = MOST_ROWS) -> None:
    if not rows:
        return
    console.print(table)
    if rows > most:
        console.print(f"{rows - most:,} more rows on the page", highlight=False)
    console.print()


def _text(value: float | None, shown: Callable[[float], str]) -> str:
    return "–" if value is None else shown(value)
