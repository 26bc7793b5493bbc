"""Commands that make something of a finished run for others: `export` and `card`."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.cli.options import RunArgument, SetOption, load_run_config
from capfilt.pipeline.console.commands import shell_command
from capfilt.pipeline.console.logs import log_run
from capfilt.pipeline.console.streams import make_console
from capfilt.pipeline.console.summary import print_fields
from capfilt.stages.export.forms import Form
from capfilt.stages.storage.errors import explain_disk_errors
from capfilt.stages.storage.layout import CROISSANT, DEFAULT_VERDICTS


def export(
    run_dir: RunArgument,
    out: Annotated[
        str, typer.Argument(metavar="OUT", help="Folder to write: local path or URL; new or empty.")
    ],
    to: Annotated[Form, typer.Option(help="Form of the export.")],
    round_: Annotated[
        int | None,
        typer.Option("--round", metavar="N", help="Round whose verdicts decide. Default: the last."),
    ] = None,
    verdicts: Annotated[
        str,
        typer.Option(metavar="NAME", help="The set of verdicts that decides. Default: the run's own."),
    ] = DEFAULT_VERDICTS,
    human: Annotated[bool, typer.Option("--human", help="Export the human pairs too.")] = False,
    origins: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="web, synthetic or both. Default: both; for datacomp-uids web, since its trainer reads the "
            "texts of the pool.",
        ),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Further columns. Default: those of your manifest that the run has."
        ),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Write what a run has kept in a form that trainers read; print the command that reads it.

    The same command resumes an interrupted export. The run itself is only read.
    """
    from capfilt.pipeline.config.load import refuse_credentials
    from capfilt.pipeline.console.activity import Activity
    from capfilt.pipeline.export.commands import next_commands
    from capfilt.pipeline.export.export import run_export
    from capfilt.pipeline.export.node import export_on_ray
    from capfilt.pipeline.export.plan import ExportRequest, parse_origins
    from capfilt.pipeline.prepare import open_run

    console = make_console()
    given: list[tuple[str, object]] = [("--round", round_), ("--origins", origins), ("--columns", columns)]
    if verdicts != DEFAULT_VERDICTS:
        given.append(("--verdicts", verdicts))
    options = [word for name, value in given if value is not None for word in (name, str(value))]
    words = ["capfilt", "export", run_dir, out, "--to", to, *(["--human"] if human else []), *options]
    resume = shell_command(words, set_ or [])
    with UserErrors(resume=resume), Activity(console) as activity:
        refuse_credentials(out, "OUT")
        request = ExportRequest(
            form=to,
            out=out,
            round=round_,
            verdicts=verdicts,
            human=human,
            origins=parse_origins(origins),
            columns=None if columns is None else tuple(filter(None, columns.split(","))),
        )
        opened = open_run(load_run_config(run_dir, set_ or []))
        log_run(run_dir)
        on_ray = partial(export_on_ray, opened, activity)
        exported = run_export(opened, request, on_ray, activity)
        activity.stop()
        summary = exported.summary
        texts = ", ".join(f"{count:,} {origin}" for origin, count in summary.pairs.items())
        before = "was there already: " if exported.before == "done" else ""
        print_fields(
            console,
            [
                ("export", f"{before}{out.rstrip('/')}"),
                ("images", f"{summary.images:,}"),
                ("texts", texts),
                *next_commands(exported.plan.config.out, summary),
            ],
        )


def card(
    run_dir: RunArgument,
    out: Annotated[
        str, typer.Argument(metavar="FILE", help="The card to write; must not exist.")
    ] = "README.md",
    round_: Annotated[
        int | None, typer.Option("--round", metavar="N", help="Describe this round. Default: the last.")
    ] = None,
    croissant: Annotated[
        bool,
        typer.Option(
            "--croissant", help="Also write RUN/croissant.json, which describes the candidates (JSON-LD)."
        ),
    ] = False,
    set_: SetOption = None,
) -> None:
    """Write the card of a corpus (README.md): counts, noise, models, hosts, licenses, opt-outs, limits."""
    from pathlib import Path

    from capfilt.pipeline.card.croissant import describe_run
    from capfilt.pipeline.card.facts import CardError, collect_facts
    from capfilt.pipeline.card.readme import make_readme
    from capfilt.pipeline.prepare import open_run

    console = make_console()
    with UserErrors():
        if Path(out).exists():
            raise CardError(f"FILE {out}: already exists; name another, or remove it first")
        opened = open_run(load_run_config(run_dir, set_ or []))
        facts = collect_facts(opened, round_)
        with explain_disk_errors(out):
            Path(out).write_text(make_readme(facts), encoding="utf-8")
        print_fields(console, [("card", out)])
        if croissant:
            opened.store.put_json(CROISSANT, describe_run(facts, opened))
            print_fields(console, [("croissant", opened.store.address(CROISSANT))])
