"""Commands that change a run in place: `retry`."""

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
