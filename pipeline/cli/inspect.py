"""Commands that look at a run directory: `report` and `verify`."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.cli.options import RunArgument, SetOption, load_run_config
from capfilt.pipeline.cli.run import run_config
from capfilt.pipeline.console.commands import duckdb_command, noise_ratio_query, resume_command, shell_command
from capfilt.pipeline.console.logs import log_run
from capfilt.pipeline.console.streams import make_console, print_labeled
from capfilt.pipeline.console.summary import print_fields, print_summary
from capfilt.stages.storage.layout import DEFAULT_VERDICTS, report_folder

if TYPE_CHECKING:
    from capfilt.pipeline.rundir.run_dir import RunDir


def report(
    run_dir: RunArgument,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="OTHER",
            help="Another run directory: compare RUN (A) with it (B): settings, figures, and "
            "verdicts on the same texts.",
            show_default=False,
        ),
    ] = None,
    verdicts: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Report by this set of verdicts (capfilt rejudge); the page is in "
            "reports/<round>/verdicts/NAME. Default: the run's own.",
        ),
    ] = DEFAULT_VERDICTS,
    by: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="Print noise ratios by these, and show them on the page: host, length (words), size "
            "(shorter side), or any column of the candidates, e.g. source,captioner,flags.",
        ),
    ] = "",
    set_: SetOption = None,
) -> None:
    """Write the report pages of a run again and print its closing block, or compare two runs."""
    names = [name.strip() for name in by.split(",")] if by else []
    if other is None:
        _report_one(run_dir, verdicts, names, set_ or [])
    else:
        _report_two((run_dir, other), verdicts, names, set_ or [])


def _report_one(run_dir: str, verdicts: str, names: list[str], overrides: list[str]) -> None:
    from capfilt.pipeline.console.activity import Activity
    from capfilt.pipeline.console.group_tables import print_groups
    from capfilt.pipeline.nodes.report import write_report
    from capfilt.pipeline.prepare import open_run

    console = make_console()
    with UserErrors(), Activity(console) as activity:
        config = load_run_config(run_dir, overrides)
        log_run(run_dir)
        activity("reading the records of the run")
        opened = open_run(config)
        rounds = _reported_rounds(opened, run_dir, verdicts)
        metrics = None
        for round_ in rounds:
            activity(f"writing the report of round {round_}")
            metrics = write_report(opened, round_, verdicts, names)
        activity.stop()
        if names:
            print_groups(console, opened.store, report_folder(rounds[-1], verdicts))
        place, last = run_dir.rstrip("/"), rounds[-1]
        look = duckdb_command(noise_ratio_query(place, last, verdicts))
        query = look if last else resume_command(place, [])
        print_summary(console, config, metrics, "look" if last else "again", query)


def _report_two(places: tuple[str, str], verdicts: str, names: list[str], overrides: list[str]) -> None:
    from capfilt.pipeline.comparison.compare import compare_runs
    from capfilt.pipeline.comparison.page import write_comparison
    from capfilt.pipeline.comparison.run import open_compared
    from capfilt.pipeline.comparison.text import print_comparison
    from capfilt.pipeline.config.load import ConfigError
    from capfilt.pipeline.console.activity import Activity
    from capfilt.pipeline.prepare import open_run

    console = make_console()
    with UserErrors(), ExitStack() as stack, Activity(console) as activity:
        configs = [load_run_config(place, overrides) for place in places]
        runs = []
        for letter, place, config in zip("AB", places, configs, strict=True):
            log_run(place)
            activity(f"reading {letter}")
            opened = open_run(config)
            last = _reported_rounds(opened, place, verdicts)[-1]
            if not last:
                raise ConfigError(f"{place}: no round is bootstrapped yet; finish one with capfilt run")
            runs.append(open_compared(letter, opened, last, verdicts))
            stack.callback(runs[-1].tables.close)
        activity("comparing")
        found = compare_runs(runs[0], runs[1], names)
        activity.stop()
        print_comparison(console, found)
        print_fields(console, [("page", write_comparison(found, open_run(configs[0]).store))])


def _reported_rounds(opened: RunDir, place: str, verdicts: str) -> list[int]:
    """Rounds that can have a report by a set of verdicts.

    Raises:
        ConfigError: there is none.
    """
    from capfilt.pipeline.config.load import ConfigError
    from capfilt.stages.verdicts.sets import list_sets

    # A report needs what its round has judged; that of round 0, which judges nothing, its evaluation.
    judging = [node for node in opened.nodes.values() if node.kind.judges or node.name == "evaluate.0"]
    rounds = [node.round for node in judging if opened.ledger.node(node.name) is not None]
    if not rounds:
        raise ConfigError(f"{place}: no round is bootstrapped yet; finish one with capfilt run")
    if verdicts != DEFAULT_VERDICTS:
        judged = [number for name, number in list_sets(opened.store) if name == verdicts]
        rounds = [number for number in rounds if number in judged] or rounds[-1:]
    return rounds


def verify(
    run_dir: RunArgument,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Remove what is damaged, make it again, and finish the run."),
    ] = False,
    records_only: Annotated[
        bool,
        typer.Option(
            "--records-only",
            help="Read no file, only the records, and list the folders: are all files there, in their "
            "size? Minutes where hashing takes hours.",
        ),
    ] = False,
    set_: SetOption = None,
) -> None:
    """Hash every file of a run and account for every row; exit code 1 if anything differs."""
    from capfilt.pipeline.console.activity import Activity
    from capfilt.pipeline.maintenance.repair import repair_run
    from capfilt.pipeline.maintenance.verdict_repair import finish_sets
    from capfilt.pipeline.maintenance.verify import verify_run
    from capfilt.pipeline.prepare import hold_run, open_run

    console, overrides = make_console(), set_ or []
    repair_command = shell_command(["capfilt", "verify", run_dir, "--repair"], overrides)
    resume = repair_command if repair else None
    with UserErrors(resume=resume), Activity(console) as activity:
        config = load_run_config(run_dir, overrides)
        log_run(run_dir)
        activity("reading the records of the run" if records_only else "hashing the files of the run")
        if repair:
            with hold_run(config, console.print) as held:
                found, undone = repair_run(held, records_only=records_only)
                activity("judging verdict sets again")
                sets = finish_sets(held)
        else:
            found, undone, sets = verify_run(open_run(config), records_only=records_only), [], []
    for problem in found.problems:
        print_labeled(console, "differs", str(problem), "bold red")
    console.print(
        f"{found.shards:,} shards, {found.rows:,} rows, {found.bytes / 1e6:,.1f} MB: "
        f"{len(found.problems)} differences; {found.unfinished} not finished",
        highlight=False,
    )
    if found.unfinished_sets and not repair:
        print_fields(console, [("not complete", f"verdict set {', '.join(found.unfinished_sets)}")])
    if found.problems and not repair:
        print_fields(console, [("repair", repair_command)])
        raise SystemExit(1)
    if sets:
        print_fields(console, [("judged again", ", ".join(sets))])
    of_nodes = [problem for problem in found.problems if problem.verdicts is None]
    if repair and (of_nodes or found.unfinished):
        if undone:
            print_fields(console, [("making again", ", ".join(undone))])
        run_config(config, resume_command(run_dir, overrides))
