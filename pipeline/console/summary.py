"""The last lines of a run: what was done, where it is, and the command that resumes or continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

RETRIEVAL_SHOWN = ("itc_tr@1", "itc_ir@1", "tr@1", "tr@5", "tr@10", "ir@1", "ir@5", "ir@10")


def closing_block(
    metrics: Mapping[str, Any] | None,
    places: Sequence[tuple[str, str]],
    command: str,
    next_step: str = "again",
) -> RenderableType:
    """The closing block of a run.

    Args:
        metrics: a round's metrics.json, or None when no report was made; absent parts are left out.
        places: (what it is, where it is), for example ("report", "runs/x/reports/1/report.html").
        command: the exact command that resumes or continues; printed on a line of its own, never wrapped.
        next_step: what that command does, printed before it: "again", "resume", "look", …
    """
    parts: list[RenderableType] = []
    if metrics is not None:
        parts += [_counts(metrics), _noise(metrics), *_filter(metrics)]
        parts += _models("retrieval (R@k, %)", metrics.get("retrieval") or {}, RETRIEVAL_SHOWN)
        parts += _models("captions (%)", metrics.get("caption") or {}, ("cider", "bleu@4", "rouge_l"))
    parts += [line(name, place) for name, place in places]
    parts.append(line(next_step, command, style="bold"))
    return Group(*parts)


def line(label: str, value: str, style: str = "") -> Text:
    """`label  value`, never wrapped, so that paths and commands can be copied whole; no markup is read."""
    text = Text(no_wrap=True, overflow="ignore", end="\n")
    text.append(f"{label:<14}", style="dim")
    text.append(value, style=style)
    return text


def _counts(metrics: Mapping[str, Any]) -> Text:
    counts: Mapping[str, int] = metrics.get("counts") or {}
    order = sorted(counts, key=lambda status: (status != "success", -counts[status], status))
    shown = ", ".join(f"{counts[status]:,} {status}" for status in order)
    return Text.assemble(
        (f"{'rows':<14}", "dim"), f"{sum(counts.values()):,} = {shown}" if counts else "none"
    )


def _noise(metrics: Mapping[str, Any]) -> Text:
    """Noise ratios as fractions, to be compared with what DuckDB prints."""
    planted = metrics.get("planted_noise")
    text = Text.assemble((f"{'noise ratio':<14}", "dim"))
    ratios = metrics.get("noise_ratio") or {}
    for i, origin in enumerate(sorted(ratios, reverse=True)):  # web before synthetic
        text.append(f"{'; ' if i else ''}{origin} ")
        text.append(_fraction(ratios[origin]), style="bold")
        if origin == "web" and planted is not None:
            text.append(f" (planted {_fraction(planted)})")
    if not ratios:
        text.append("nothing was judged")
    return text


def _filter(metrics: Mapping[str, Any]) -> list[Text]:
    quality = metrics.get("filter")
    if not quality:
        return []
    text = Text.assemble((f"{'filter':<14}", "dim"), "AUC ", (_fraction(quality["auc"]), "bold"))
    text.append(f", precision {_fraction(quality['precision'])}, recall {_fraction(quality['recall'])}")
    text.append(" at finding the planted noise")
    return [text]


def _models(
    title: str, scores: Mapping[str, Mapping[str, float]], columns: Sequence[str]
) -> list[RenderableType]:
    """One row per model and, below them, what the last gained over the first."""
    columns = [name for name in columns if any(name in row for row in scores.values())]
    if not columns:
        return []
    models = sorted(scores, key=model_order)
    table = Table(title=title, title_justify="left", title_style="dim", box=None, pad_edge=False)
    table.add_column("model")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for model in models:
        table.add_row(model, *(_percent(scores[model].get(name)) for name in columns))
    if len(models) > 1:
        gains = gain(scores[models[0]], scores[models[-1]])
        table.add_row("gain", *(_signed(gains.get(name)) for name in columns), style="bold")
    return [Padding(table, (0, 0, 0, 2))]


def model_order(model: str) -> tuple[str, int, str]:
    """Sort key of "pretrain.0", "pretrain.1", …, "pretrain.10"."""
    name, _, number = model.rpartition(".")
    return (name, int(number), "") if number.isdigit() else (model, -1, model)


def gain(first: Mapping[str, float], last: Mapping[str, float]) -> dict[str, float]:
    """last - first of every metric both have."""
    return {name: last[name] - first[name] for name in first if name in last}


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"
