"""Commands that look at a run without working on it: `status`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.cli.options import RunArgument, SetOption, load_run_config
from capfilt.pipeline.console.commands import resume_command
from capfilt.pipeline.console.streams import make_console

WATCH_SECONDS = 5.0
"""Pause between two looks."""


def status(
    run_dir: RunArgument,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every 5 s while a run is at work.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    set_: SetOption = None,
) -> None:
    """Show how far a run is, from any machine that sees its directory; a dead run too.

    Takes no lease and needs no cluster.
    """
    from rich.live import Live

    from capfilt.pipeline.inspection.status import read_status
    from capfilt.pipeline.inspection.status_page import status_block
    from capfilt.pipeline.prepare import open_run

    console = make_console()
    with UserErrors():
        opened = open_run(load_run_config(run_dir, set_ or []))
        resume = resume_command(run_dir, set_ or [])
        found = read_status(opened)
        if as_json:
            typer.echo(json.dumps(asdict(found), ensure_ascii=False, indent=1))
            return
        if not (watch and console.is_terminal):
            console.print(status_block(found, resume), soft_wrap=True)
        while watch and found.is_at_work and not console.is_terminal:
            time.sleep(WATCH_SECONDS)
            found = read_status(opened)
            console.print(status_block(found, resume), soft_wrap=True)
        if watch and console.is_terminal:
            with Live(status_block(found, resume), console=console, auto_refresh=False) as live:
                while found.is_at_work:
                    time.sleep(WATCH_SECONDS)
                    found = read_status(opened)
                    live.update(status_block(found, resume), refresh=True)
