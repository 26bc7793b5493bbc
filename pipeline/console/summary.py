"""The closing block of a command: what was done, where it is, and the command to run next."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.evaluation.scores import model_sort_key, score_gains
from capfilt.stages.storage.layout import report_folder

if TYPE_CHECKING:
    from capfilt.pipeline.config.schema import Config
    from capfilt.pipeline.report.metrics_file import RoundMetrics

log = logging.getLogger(__name__)

RETRIEVAL_COLUMNS = ("itc_tr@1", "itc_ir@1", "tr@1", "tr@5", "tr@10", "ir@1", "ir@5", "ir@10")
CAPTION_COLUMNS = ("cider", "bleu@4", "rouge_l")
SOURCE_COLUMNS = ("itc_tr@1", "itc_ir@1", "cider")
TASK_METRICS = ("vqa_score", "accuracy", "r_mean", "cider", "top1", "mrr", "r@1")
"""Metrics of the kinds of downstream tasks (`pipeline.config.tasks.METRICS`)."""
LABEL_WIDTH = 14


def print_summary(
    console: Console, config: Config, metrics: RoundMetrics | None, next_step: str, command: str
) -> None:
    """Print the closing block of a run.

    Args:
        metrics: `metrics.json` of the last report, None if there is no report yet.
        next_step: what the command does: resume, continue or again.
        command: the command to run next.
    """
    run_dir = config.run.dir.rstrip("/")
    places = [("run", run_dir)]
    if metrics is not None:
        round_, report = metrics.round, report_folder(metrics.round, metrics.verdicts)
        places += [("candidates", f"{run_dir}/rounds/{round_}/")] if round_ else []
        places += [
            ("report", f"{run_dir}/{report}/report.html"),
            ("metrics", f"{run_dir}/{report}/metrics.json"),
        ]
    console.print()
    console.print(summary_block(metrics, places, command, next_step), soft_wrap=True)


def print_fields(console: Console, fields: Sequence[tuple[str, str]]) -> None:
    """Print (label, value) lines, never wrapped, so that paths and commands can be copied."""
    width = max((len(label) for label, _ in fields), default=0)
    for label, value in fields:
        console.print(field_line(f"{label:<{width}}", value), soft_wrap=True)


def load_last_metrics(config: Config) -> RoundMetrics | None:
    """Metrics of the last round that has a report; None if there is none or the store cannot be reached."""
    # Imported here to keep the start of the command line fast.
    from capfilt.pipeline.report.metrics_file import MetricsError, read_metrics
    from capfilt.stages.storage.store import Store, StoreError

    store = Store(config.run.dir, config.run.storage_options)
    try:
        with suppress(StoreError):  # the command has already reported that the store cannot be reached
            for round_ in range(config.run.rounds, -1, -1):
                metrics = read_metrics(store, round_)
                if metrics is not None:
                    return metrics
    except MetricsError as error:
        log.warning("%s", error)
    return None


def summary_block(
    metrics: RoundMetrics | None,
    places: Sequence[tuple[str, str]],
    command: str,
    next_step: str = "again",
) -> RenderableType:
    """The closing block of a run.

    Args:
        metrics: `metrics.json` of a round, or None without a report; parts that it lacks are left out.
        places: (label, path), for example ("report", "runs/x/reports/1/report.html").
        command: the command to run next, printed last on a line that is never wrapped.
        next_step: label of that line, what the command does: "again", "resume", "look", …
    """
    parts: list[RenderableType] = []
    if metrics is not None:
        parts += [_row_counts(metrics), _noise_ratios(metrics)]
        parts += [*_calibration(metrics), *_filter_quality(metrics), *_efficiency(metrics)]
        parts += [field_line("alarm", alarm, style="bold red") for alarm in metrics.alarms]
        parts += _score_table("retrieval (R@k, %)", metrics.retrieval, RETRIEVAL_COLUMNS)
        parts += _score_table("captions (%)", metrics.caption, CAPTION_COLUMNS)
        for source, retrieval in sorted(metrics.retrieval_by_source.items()):
            caption = metrics.caption_by_source.get(source, {})
            both = {model: {**scores, **caption.get(model, {})} for model, scores in retrieval.items()}
            parts += _score_table(f"on test source {source} (%)", both, SOURCE_COLUMNS)
        parts += _task_table(metrics)
    parts += [field_line(name, place) for name, place in places]
    parts.append(field_line(next_step, command, style="bold"))
    return Group(*parts)


def field_line(label: str, value: str, style: str = "") -> Text:
    """`label  value` on one line that is never wrapped; brackets are no markup."""
    text = Text(no_wrap=True, overflow="ignore", end="\n")
    text.append(*_label(label))
    text.append(value, style=style)
    return text


def _label(text: str) -> tuple[str, str]:
    return f"{text:<{LABEL_WIDTH - 1}} ", "dim"


def _row_counts(metrics: RoundMetrics) -> Text:
    counts = metrics.counts
    order = sorted(counts, key=lambda status: (status != "success", -counts[status], status))
    shown = ", ".join(f"{counts[status]:,} {status}" for status in order)
    return Text.assemble(_label("rows"), f"{sum(counts.values()):,} = {shown}" if counts else "none")


def _noise_ratios(metrics: RoundMetrics) -> Text:
    """Noise ratios as fractions, as DuckDB prints them."""
    planted = metrics.planted_noise
    text = Text.assemble(_label("noise ratio"))
    ratios = metrics.noise_ratio
    for i, origin in enumerate(sorted(ratios, reverse=True)):  # web before synthetic
        text.append(f"{'; ' if i else ''}{origin} ")
        text.append(_fraction(ratios[origin]), style="bold")
        if origin == "web" and planted is not None:
            text.append(f" (planted {_fraction(planted)})")
    if not ratios:
        text.append("nothing was judged")
    return text


def _calibration(metrics: RoundMetrics) -> list[Text]:
    found = metrics.calibration
    if found is None:
        return []
    estimate = Text.assemble(_label("calibrated"), "web ")
    for kind, share in found.shares:
        estimate.append(_fraction(share.noise), style="bold")
        estimate.append(f" {kind} ({_fraction(share.low)} to {_fraction(share.high)}), ")
    estimate.append(f"from {found.all.pairs:,} texts")
    suggestion = Text.assemble(_label("threshold"), "suggested ", (f"{found.threshold:g}", "bold"))
    suggestion.append(
        f": would keep about {found.keeps_matching:.0%} of the matching web texts and "
        f"{found.keeps_noise:.0%} of the noise"
    )
    return [estimate, suggestion]


def _filter_quality(metrics: RoundMetrics) -> list[Text]:
    quality = metrics.filter
    if quality is None:
        return []
    text = Text.assemble(_label("filter"), "AUC ", (_fraction(quality.auc), "bold"))
    text.append(f", precision {_fraction(quality.precision)}, recall {_fraction(quality.recall)}")
    text.append(" at finding the planted noise")
    return [text]


def _efficiency(metrics: RoundMetrics) -> list[Text]:
    """Speed of each stage with a model, relative to the model alone."""
    measured = [each for each in metrics.stages if each.efficiency is not None]
    if not measured:
        return []
    shares = ", ".join(f"{each.stage} {_fraction(each.efficiency)}" for each in measured)
    alone = ", ".join(f"{each.stage} {each.model_images_per_second:,.1f}" for each in measured)
    return [field_line("efficiency", f"{shares} (models alone: {alone} images/s)")]


def _score_table(
    title: str, scores: Mapping[str, Mapping[str, float]], columns: Sequence[str]
) -> list[RenderableType]:
    """One row per model, and below them the gain of the last over the first."""
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


def _task_table(metrics: RoundMetrics) -> list[RenderableType]:
    """One row per downstream task and model that it started from."""
    if not metrics.tasks_by_start:
        return []
    table = Table(
        title="downstream tasks (%)", title_justify="left", title_style="dim", box=None, pad_edge=False
    )
    for name in ("task", "start", "metric"):
        table.add_column(name)
    for name in ("finetuned", "at start", "chance"):
        table.add_column(name, justify="right")
    for task, of_starts in sorted(metrics.tasks_by_start.items()):
        for start, scores in of_starts.items():
            metric = next((name for name in scores if name in TASK_METRICS), "")
            values = (scores.get(name) for name in (metric, "start", "chance"))
            table.add_row(task, start, metric, *map(_percent, values))
    return [Padding(table, (0, 0, 0, 2))]


def _fraction(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.1f}"
