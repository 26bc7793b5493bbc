"""The command line: `capfilt`, also `python -m pipeline`.

Exit codes: 0 everything is done; 1 a node failed, `verify` found a difference, or a picture cannot be read;
2 a mistake in config, input or usage; 130, 143 or 129 interrupted by SIGINT, SIGTERM or SIGHUP.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import typer

from capfilt.pipeline.cli.ablate import ablate
from capfilt.pipeline.cli.amend import rejudge, retry
from capfilt.pipeline.cli.export import card, export
from capfilt.pipeline.cli.inspect import report, verify
from capfilt.pipeline.cli.look import show, status
from capfilt.pipeline.cli.options import global_options
from capfilt.pipeline.cli.run import check, plan, quickstart, run
from capfilt.pipeline.cli.submit import stop, submit
from capfilt.pipeline.cli.tools import clipart, convert, evaluate, shapes
from capfilt.pipeline.cli.use import answer, caption, match, rank
from capfilt.pipeline.console.streams import flush_output

FAMILIES: dict[str, tuple[Callable[..., None], ...]] = {
    "Run": (quickstart, run, check, plan, ablate),
    "On a cluster": (submit, stop),
    "Inspect a run": (status, show, report, verify),
    "Amend a run": (retry, rejudge),
    "Use a run": (export, card),
    "Use a model": (caption, match, answer, rank),
    "Tools": (evaluate, convert, shapes, clipart),
}
"""Commands by the heading under which `--help` lists them."""

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Bootstrap a clean image-text corpus from a noisy one, on Ray (CapFilt, arXiv 2201.12086).",
)
app.callback()(global_options)
for family, commands in FAMILIES.items():
    for command in commands:
        app.command(rich_help_panel=family)(command)


def main() -> None:
    """Entry point of the `capfilt` command."""
    # Once a run has disconnected, a thread that has waited for Ray must not connect, or start a Ray, again.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    try:
        app(prog_name="capfilt")
    finally:
        flush_output()
