"""The last lines of a run: what was done, where it is, and the command that resumes or continues."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.evaluation.scores import model_sort_key, score_gains

if TYPE_CHECKING:
    from capfilt.pipeline.report.metrics_file import RoundMetrics

log = logging.getLogger(__name__)

RETRIEVAL_SHOWN = ("itc_tr@1", "itc_ir@1", "tr@1", "tr@5", "tr@10", "ir@1", "ir@5", "ir@10")


def summary_block(
    metrics: RoundMetrics | None,
    places: Sequence[tuple[str, str]],
    command: str,
    next_step: str = "again",
) -> RenderableType:
    """The closing block of a run.

    Args:
        metrics: of a round, or None when there is no report; empty parts are left out.
        places: (what it is, where it is), for example ("report", "runs/x/reports/1/report.html").
        command: the exact command that resumes or continues; printed on a line of its own, never wrapped.
        next_step: what that command does, printed before it: "again", "resume", "look", …
    """
    parts: list[RenderableType] = []
    if metrics is not None:
        parts += [_counts(metrics), _noise(metrics), *_filter(metrics)]
        parts += _models("retrieval (R@k, %)", metrics.retrieval, RETRIEVAL_SHOWN)
        parts += _models("captions (%)", metrics.caption, ("cider", "bleu@4", "rouge_l"))
    parts += [line(name, place) for name, place in places]
    parts.append(line(next_step, command, style="bold"))
    return Group(*parts)


def line(label: str, value: str, style: str = "") -> Text:
    """`label  value`, never wrapped, so that paths and commands can be copied whole; no markup is read."""
    text = Text(no_wrap=True, overflow="ignore", end="\n")
    text.append(f"{label:<14}", style="dim")
    text.append(value, style=style)
    return text


def _counts(metrics: RoundMetrics) -> Text:
    counts = metrics.counts
    order = sorted(counts, key=lambda status: (status != "success", -counts[status], status))
    shown = ", ".join(f"{counts[status]:,} {status}" for status in order)
    return Text.assemble(
        (f"{'rows':<14}", "dim"), f"{sum(counts.values()):,} = {shown}" if counts else "none"
    )


def _noise(metrics: RoundMetrics) -> Text:
    """Noise ratios as fractions, to be compared with what DuckDB prints."""
    planted = metrics.planted_noise
    text = Text.assemble((f"{'noise ratio':<14}", "dim"))
    ratios = metrics.noise_ratio
    for i, origin in enumerate(sorted(ratios, reverse=True)):  # web before synthetic
        text.append(f"{'; ' if i else ''}{origin} ")
        text.append(_fraction(ratios[origin]), style="bold")
        if origin == "web" and planted is not None:
            text.append(f" (planted {_fraction(planted)})")
    if not ratios:
        text.append("nothing was judged")
    return text


def _filter(metrics: RoundMetrics) -> list[Text]:
    quality = metrics.filter
    if quality is None:
        return []
    text = Text.assemble((f"{'filter':<14}", "dim"), "AUC ", (_fraction(quality.auc), "bold"))
    text.append(f", precision {_fraction(quality.precision)}, recall {_fraction(quality.recall)}")
    text.append(" at finding the planted noise")
    return [text]


def _models(
    title: str, scores: Mapping[str, Mapping[str, float]], columns: Sequence[str]
) -> list[RenderableType]:
    """One row per model and, below them, what the last gained over the first."""
    columns = [name for name in columns if any(name in row for row in scores.values())]
    if not columns:
        return []
    models = sorted(scores, key=model_sort_key)
    table = Table(title=title, title_justify="left", title_style="dim", box=None, pad_edge=False)
    table.add_column("model")
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for model in models:
        table.add_row(model, *(_percent(scores[model].get(name)) for name in columns))
    if len(models) > 1:
        gains = score_gains(scores[models[0]], scores[models[-1]])
        table.add_row("gain", *(_signed(gains.get(name)) for name in columns), style="bold")
    return [Padding(table, (0, 0, 0, 2))]


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"


def last_metrics(config: Any) -> RoundMetrics | None:
    """Metrics of the last round that has a report; None when no round has one or the store cannot be read."""
    # Imported here to keep the start of the command line fast.
    from capfilt.pipeline.report.metrics_file import MetricsError, read_metrics
    from capfilt.stages.storage.store import Store, StoreError

    store = Store(config.run.dir, config.run.storage_options)
    try:
        with suppress(StoreError):  # the command itself has already printed this error
            for round_ in range(config.run.rounds, 0, -1):
                metrics = read_metrics(store, round_)
                if metrics is not None:
                    return metrics
    except MetricsError as error:
        log.warning("%s", error)
    return None


def print_summary(
    console: Console, config: Any, metrics: RoundMetrics | None, next_step: str, command: str
) -> None:
    """Print the closing block of a run.

    Args:
        metrics: of its last report, None if there is none yet.
        next_step: what the command does next: resume, continue or again.
    """
    from capfilt.pipeline.console.summary import summary_block

    run_dir = config.run.dir.rstrip("/")
    places = [("run", run_dir)]
    if metrics is not None:
        round_ = metrics.round
        places += [
            ("candidates", f"{run_dir}/rounds/{round_}/"),
            ("report", f"{run_dir}/reports/{round_}/report.html"),
            ("metrics", f"{run_dir}/reports/{round_}/metrics.json"),
        ]
    console.print()
    console.print(summary_block(metrics, places, command, next_step), soft_wrap=True)


def print_fields(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """(label, value) lines, never wrapped, so that paths and commands can be copied whole."""
    from capfilt.pipeline.console.summary import line

    for label, value in lines:
        console.print(line(label, value), soft_wrap=True)
