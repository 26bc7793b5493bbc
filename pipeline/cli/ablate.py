"""The command `ablate`: tables that compare variants of a config over several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.pipeline.ablation.tables import TABLES
from capfilt.pipeline.cli.exits import USAGE_ERROR, UserErrors
from capfilt.pipeline.cli.options import ConfigArgument, SetOption
from capfilt.pipeline.cli.run import run_config
from capfilt.pipeline.console.commands import shell_command
from capfilt.pipeline.console.streams import make_console, print_labeled
from capfilt.pipeline.console.summary import print_fields

if TYPE_CHECKING:
    from capfilt.pipeline.ablation.summary import TableSummary
    from capfilt.pipeline.ablation.variants import Ablation, VariantRun

ALL = "all"


def ablate(
    config: ConfigArgument,
    table: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help=f"{', '.join(TABLES)} or {ALL}. Repeatable.", show_default="capfilt"
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="N,N,…", help="Values of run.seed.")] = "0,1,2",
    set_: SetOption = None,
) -> None:
    """Run the variants of a config that a table compares, with each seed; print mean and spread of each row.

    Each variant is a run `seed-N-VARIANT` in run.dir, and takes over what other variants of the seed have
    made of equal inputs. Scores are written to `tables/NAME.parquet`, and `tables.html` shows all tables. A
    variant that fails is left out of its tables. The same command resumes all of them.
    """
    overrides, names = set_ or [], table or ["capfilt"]
    words = [word for name in names for word in ("--table", name)]
    resume = shell_command(["capfilt", "ablate", config, *words, "--seeds", seeds], overrides)
    with UserErrors(resume):
        from capfilt.pipeline.ablation.variants import Ablation, check_runs

        chosen, numbers = parse_tables(names), parse_seeds(seeds)
        ablation = Ablation.load(config, overrides)
        runs = {name: ablation.runs(TABLES[name], numbers) for name in chosen}
        has_work = check_runs(run for of_table in runs.values() for run in of_table)
    failed: dict[str, int] = {}
    with ExitStack() as stack:
        if has_work:
            _start_ray(ablation, stack, resume)
        shown = [_run_table(ablation, name, runs[name], resume, failed) for name in chosen]
    _show(ablation, shown, resume)
    for folder, code in failed.items():
        line = f"{ablation.store.address(folder)}: failed with exit code {code}; its rows are missing"
        print_labeled(make_console(), "error", line, "bold red")
    if failed:
        raise SystemExit(USAGE_ERROR if set(failed.values()) == {USAGE_ERROR} else 1)


def parse_tables(names: Iterable[str]) -> list[str]:
    """The tables of `--table`, each once.

    Raises:
        ConfigError: there is no such table.
    """
    from capfilt.pipeline.config.load import ConfigError

    chosen: dict[str, None] = {}
    for name in names:
        if name not in TABLES and name != ALL:
            raise ConfigError(f"--table {name}: no such table; allowed: {', '.join(TABLES)}, {ALL}")
        chosen |= dict.fromkeys(TABLES if name == ALL else [name])
    return list(chosen)


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


def _start_ray(ablation: Ablation, stack: ExitStack, resume: str) -> None:
    """Connect to Ray once for all runs."""
    from capfilt.cluster.session import session

    with UserErrors(resume):
        stack.enter_context(session(ablation.base.cluster))


def _run_table(
    ablation: Ablation, name: str, runs: Sequence[VariantRun], resume: str, failed: dict[str, int]
) -> TableSummary:
    """Run the variants of a table and write its scores. A run that fails gets its exit code in `failed`; one
    that has failed for an earlier table is not tried again."""
    from capfilt.pipeline.ablation.scores import describe_runs, read_scores, write_scores
    from capfilt.pipeline.ablation.summary import summarize

    console = make_console()
    for run in runs:
        if run.folder in failed:
            continue
        console.print(f"\n{name}: {run.folder}", style="bold", markup=False, highlight=False)
        try:
            run_config(run.config, resume, donors=ablation.donors(run))
        except SystemExit as ended:
            failed[run.folder] = ended.code if isinstance(ended.code, int) else 1
    with UserErrors(resume):
        scores = read_scores(ablation.rows(TABLES[name]), [r for r in runs if r.folder not in failed])
        about = describe_runs(runs, resume)
        write_scores(ablation.store, name, scores, about)
    return summarize(name, scores, about)


def _show(ablation: Ablation, shown: Sequence[TableSummary], resume: str) -> None:
    """Print the tables, write the page, and print where everything is."""
    from capfilt.pipeline.ablation.console import print_table
    from capfilt.pipeline.ablation.page import write_page
    from capfilt.stages.storage.layout import scores_file

    console, store = make_console(), ablation.store
    for summary in shown:
        print_table(console, summary)
    with UserErrors(resume):
        page = write_page(store, ablation.base.run.name)
    places: Mapping[str, str] = {summary.name: store.address(scores_file(summary.name)) for summary in shown}
    console.print()
    print_fields(console, [*places.items(), ("page", page), ("again", resume)])
