"""The command `ablate`: the rows of a table of the paper, over several seeds."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.cli.options import ConfigArgument, SetOption
from capfilt.pipeline.cli.run import run_config
from capfilt.pipeline.console.ablation_table import print_ablation
from capfilt.pipeline.console.commands import shell_command
from capfilt.pipeline.console.streams import make_console
from capfilt.pipeline.console.summary import print_fields

if TYPE_CHECKING:
    from capfilt.pipeline.config.schema import Config
    from capfilt.pipeline.report.metrics_file import RoundMetrics

CONTROLS = "[human_only,filter_only,captioner_only]"


class Table(StrEnum):
    """A table of the paper."""

    capfilt = "capfilt"


def ablate(
    config: ConfigArgument,
    table: Annotated[
        Table, typer.Option(help="capfilt: Table 1 (none, captioner only, filter only, both) and human only.")
    ] = Table.capfilt,
    seeds: Annotated[str, typer.Option(metavar="N,N,…", help="Values of run.seed.")] = "0,1,2",
    set_: SetOption = None,
) -> None:
    """Run a config with each seed and the controls of a table; print mean and spread of every row.

    The runs are `seed-N` in run.dir, and share nothing. The same command resumes all of them.
    """
    overrides = set_ or []
    resume = shell_command(["capfilt", "ablate", config, "--table", table.value, "--seeds", seeds], overrides)
    with UserErrors():
        run_dir, configs = _configs(config, parse_seeds(seeds), overrides)
    for each in configs.values():
        run_config(each, resume)
    with UserErrors():
        metrics = {seed: _read_metrics(each) for seed, each in configs.items()}
        place = write_scores(run_dir, configs, metrics)
    console = make_console()
    print_ablation(console, {seed: flat_scores(of_seed) for seed, of_seed in metrics.items()})
    print_fields(console, [("scores", place), ("again", resume)])


def parse_seeds(text: str) -> list[int]:
    """The seeds of `--seeds`, each once.

    Raises:
        ConfigError: the text is no list of different whole numbers from 0 on.
    """
    from capfilt.pipeline.config.load import ConfigError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts) or len(set(map(int, parts))) < len(parts):
        raise ConfigError(f"--seeds {text}: give different whole numbers from 0 on, for example 0,1,2")
    return [int(part) for part in parts]


def _configs(path: str, seeds: list[int], overrides: list[str]) -> tuple[str, dict[int, Config]]:
    """run.dir of the config, and the config of each seed."""
    from capfilt.pipeline.config.load import load_config

    run_dir = load_config(path, overrides).run.dir.rstrip("/")
    own = [f"controls={CONTROLS}"]
    return run_dir, {
        seed: load_config(path, [*overrides, *own, f"run.seed={seed}", f"run.dir={run_dir}/seed-{seed}"])
        for seed in seeds
    }


def _read_metrics(config: Config) -> RoundMetrics:
    """The metrics of the first round, in which the controls are."""
    from capfilt.pipeline.config.load import ConfigError
    from capfilt.pipeline.report.metrics_file import read_metrics
    from capfilt.stages.storage.store import Store

    metrics = read_metrics(Store(config.run.dir, config.run.storage_options), 1)
    if metrics is None:
        raise ConfigError(f"{config.run.dir}: has no report; run it with capfilt run")
    return metrics


def flat_scores(metrics: RoundMetrics) -> dict[str, dict[str, float]]:
    """{model: {metric: percent}}; the metrics of a test source have the prefix "<source> "."""
    scores: dict[str, dict[str, float]] = {}
    parts = [("", metrics.retrieval), ("", metrics.caption)]
    for by_source in (metrics.retrieval_by_source, metrics.caption_by_source):
        parts += [(f"{source} ", of_source) for source, of_source in sorted(by_source.items())]
    for prefix, part in parts:
        for model, values in part.items():
            scores.setdefault(model, {}).update({f"{prefix}{name}": v for name, v in values.items()})
    return scores


def write_scores(run_dir: str, configs: Mapping[int, Config], metrics: Mapping[int, RoundMetrics]) -> str:
    """Write every score of every seed to `ablation.parquet` in `run_dir`; returns its address."""
    import pyarrow as pa

    from capfilt.stages.shards.write import encode_parquet
    from capfilt.stages.storage.store import Store

    rows = [
        {"seed": seed, "model": model, "metric": name, "value": value}
        for seed, of_seed in metrics.items()
        for model, scores in flat_scores(of_seed).items()
        for name, value in scores.items()
    ]
    schema = pa.schema(
        [("seed", pa.int64()), ("model", pa.string()), ("metric", pa.string()), ("value", pa.float64())]
    )
    store = Store(run_dir, next(iter(configs.values())).run.storage_options)
    store.put("ablation.parquet", encode_parquet(pa.Table.from_pylist(rows, schema=schema)))
    return store.address("ablation.parquet")
