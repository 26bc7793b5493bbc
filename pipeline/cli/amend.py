"""Commands that change a run in place, or add to it: `retry` and `rejudge`."""

from __future__ import annotations

from typing import Annotated

import typer

from capfilt.pipeline.cli.exits import UserErrors, exit_now
from capfilt.pipeline.cli.options import RunArgument, SetOption, load_run_config
from capfilt.pipeline.console.commands import resume_command, shell_command
from capfilt.pipeline.console.logs import log_run
from capfilt.pipeline.console.streams import make_console, print_labeled
from capfilt.pipeline.console.summary import print_fields


def retry(
    run_dir: RunArgument,
    class_: Annotated[
        str | None,
        typer.Option(
            "--class",
            metavar="A,B",
            help="Statuses to retry, e.g. dns,timeout,http_5xx. Default: every status that can be temporary.",
        ),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Download failed rows again, in place; images that are stored stay unchanged."""
    from capfilt.pipeline.console.activity import Activity
    from capfilt.pipeline.console.signals import Interrupted
    from capfilt.pipeline.prepare import hold_run
    from capfilt.stages.shards.retry import parse_retry_classes

    console = make_console()
    words = ["capfilt", "retry", run_dir, *(["--class", class_] if class_ else [])]
    command = shell_command(words, set_ or [])
    with UserErrors(resume=command), Activity(console) as activity:
        classes = parse_retry_classes(class_)
        config = load_run_config(run_dir, set_ or [])
        log_run(run_dir)
        try:
            activity("taking the lease of the run directory")
            with hold_run(config, console.print) as held:
                activity("loading Ray")
                # Imports Ray, which takes seconds; mistakes have been reported by now.
                from capfilt.pipeline.maintenance.retry import closing_lines, retry_rows

                found = retry_rows(held, classes, console, command, activity)
        except Interrupted as interrupted:
            activity.stop()
            print_fields(console, [("resume", command)])
            exit_now(interrupted.exit_code)
    if found.failed is not None:
        print_labeled(console, "error", found.failed, "bold red")
    resume = resume_command(run_dir, set_ or [])
    print_fields(console, closing_lines(found, run_dir.rstrip("/"), command, resume))
    if found.failed is not None:
        raise SystemExit(1)


def rejudge(
    run_dir: RunArgument,
    name: Annotated[str, typer.Option(metavar="NAME", help="Name of the verdict set to make.")],
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE",
            help='Keep candidates that meet this: "itm >= 0.7", "top 30% by itc", any SQL condition on their '
            'columns; for a part of them: "web: itm >= 0.2", "source=cc12m: top 30% by itc". Repeatable; a '
            "candidate has to meet every rule for its part.",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(metavar="RULE", help="Drop candidates that meet this; the form is that of --keep."),
    ] = None,
    drop_flag: Annotated[
        list[str] | None, typer.Option(metavar="FLAG", help="Drop candidates with this flag. Repeatable.")
    ] = None,
    round_: Annotated[
        int | None, typer.Option("--round", metavar="N", help="Judge this round. Default: the last.")
    ] = None,
    set_: SetOption = None,
) -> None:
    """Make a named set of verdicts from the stored scores: seconds, without models; the run's own stay."""
    from capfilt.pipeline.console.activity import Activity
    from capfilt.pipeline.console.verdict_table import print_rejudged
    from capfilt.pipeline.maintenance.rejudge import check_name, rejudge_round
    from capfilt.pipeline.prepare import hold_run
    from capfilt.stages.verdicts.rules import PolicyText

    console, overrides = make_console(), set_ or []
    policy = PolicyText(keep=tuple(keep or ()), drop=tuple(drop or ()), drop_flags=tuple(drop_flag or ()))
    words = ["capfilt", "rejudge", run_dir, "--name", name]
    words += [word for rule in policy.keep for word in ("--keep", rule)]
    words += [word for rule in policy.drop for word in ("--drop", rule)]
    words += [word for flag in policy.drop_flags for word in ("--drop-flag", flag)]
    words += [] if round_ is None else ["--round", str(round_)]
    with UserErrors(resume=shell_command(words, overrides)), Activity(console) as activity:
        check_name(name)
        config = load_run_config(run_dir, overrides)
        log_run(run_dir)
        activity("taking the lease of the run directory")
        with hold_run(config, console.print) as held:
            found = rejudge_round(held, name, policy, round_, activity)
        activity.stop()
        print_rejudged(console, found, run_dir.rstrip("/"), overrides)
