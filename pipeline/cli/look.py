"""Commands that look at a run without working on it: `status` and `show`."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import webbrowser
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.cli.options import RunArgument, SetOption, load_run_config
from capfilt.pipeline.console.commands import resume_command
from capfilt.pipeline.console.streams import make_console
from capfilt.pipeline.console.summary import print_fields

if TYPE_CHECKING:
    from rich.console import Console

    from capfilt.pipeline.inspection.images import FoundImage
    from capfilt.pipeline.nodes.report import ImageReader

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


def show(
    run_dir: RunArgument,
    key: Annotated[
        str | None,
        typer.Argument(metavar="KEY", help="An image: its key, or source and key, as web/00000000012."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Images with a candidate that meets this, as: origin='web' and itm_prob between .45 and .55",
        ),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Most images of --where.")] = 10,
    open_: Annotated[bool, typer.Option("--open", help="Write an HTML page and open it.")] = False,
    set_: SetOption = None,
) -> None:
    """Show images with all their texts, scores and verdicts over the rounds.

    Terminals that can (kitty, iTerm2, sixel) show the picture. Without KEY and --where: the first images.
    """
    from capfilt.pipeline.inspection.image_page import html_page
    from capfilt.pipeline.inspection.images import ShowError, find_key, find_where, read_image
    from capfilt.pipeline.nodes.report import ImageReader
    from capfilt.pipeline.prepare import open_run

    console = make_console()
    with UserErrors():
        if key is not None and where is not None:
            raise ShowError("KEY and --where are given; give one of them")
        opened = open_run(load_run_config(run_dir, set_ or []))
        found = find_where(opened, where, limit) if key is None else find_key(opened, key)
        if not found:
            console.print("no image meets the condition")
            return
        images, reader = (
            [read_image(opened, source, each) for source, each in found],
            ImageReader(opened.store),
        )
        if open_:
            with tempfile.NamedTemporaryFile("w", suffix=".html", delete=False, encoding="utf-8") as page:
                page.write(html_page(images, reader))
            print_fields(console, [("page", page.name)])
            webbrowser.open(Path(page.name).as_uri())
            return
        for image in images:
            _print_image(console, image, reader)


def _print_image(console: Console, image: FoundImage, reader: ImageReader) -> None:
    """Print an image: as a picture if the terminal is known to show them, and what is known about it."""
    from capfilt.pipeline.inspection.image_page import image_block
    from capfilt.pipeline.inspection.pictures import encode_picture, find_protocol

    protocol = find_protocol(os.environ, console.is_terminal)
    data = reader(image.row["source"], image.row["key"]) if protocol and image.place else None
    if protocol is not None and data is not None:
        try:
            picture = encode_picture(data, protocol)
        except OSError:  # stored as it came, in a format that Pillow does not read
            picture = b""
        sys.stdout.flush()
        sys.stdout.buffer.write(picture)
        sys.stdout.flush()
    console.print(image_block(image), soft_wrap=not console.is_terminal)
    console.print()
