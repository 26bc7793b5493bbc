"""Commands that need no run: `convert` for checkpoints, `shapes` and `clipart` for demonstration corpora."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from capfilt.pipeline.cli.exits import UserErrors
from capfilt.pipeline.console.activity import Activity
from capfilt.pipeline.console.streams import make_console

FolderArgument = Annotated[str, typer.Argument(metavar="FOLDER", help="The folder to make.")]


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Checkpoint: capfilt or transformers folder, BLIP or LAVIS .pth."),
    ],
    target: Annotated[str, typer.Argument(metavar="DST", help="What to write; must not exist.")],
    to: Annotated[Literal["hf", "blip", "capfilt"], typer.Option(help="Layout of DST.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Tokenizer, for a checkpoint without one (BLIP .pth)."),
    ] = None,
    parts: Annotated[
        Literal["captioner", "filter", "vqa"] | None,
        typer.Option(help="Write only this part of a pretrained model. Default: everything."),
    ] = None,
) -> None:
    """Convert a checkpoint between the layouts of capfilt, transformers and BLIP, strictly."""
    from capfilt.models.checkpoints.load import export_checkpoint
    from capfilt.pipeline.config.load import refuse_credentials
    from capfilt.stages.storage.artifacts import ArtifactError, ensure_local

    console = make_console()
    with UserErrors(), Activity(console) as activity:
        refuse_credentials(source, "SRC")
        if Path(target).exists():
            raise ArtifactError(f"DST {target}: already exists; name another path, or remove it first")
        activity(f"reading {source}")
        path = ensure_local(source, "SRC")
        words = None if tokenizer is None else ensure_local(tokenizer, "--tokenizer")
        activity(f"converting {source}")
        export_checkpoint(path, target, to=to, parts=parts, tokenizer=words)
        activity.stop()
        console.print(f"wrote {target} ({to} layout)", highlight=False, markup=False)


def shapes(folder: FolderArgument) -> None:
    """Make the procedural corpus of colored shapes with planted noise."""
    from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
    from capfilt.pipeline.prepare import make_corpus

    console = make_console()
    with UserErrors(), Activity(console) as activity:
        activity(f"making {folder}")
        make_corpus(make_shapes, ShapesConfig(), folder)
        activity.stop()
        console.print(f"made {folder}: human/, web/, test/", highlight=False, markup=False)


def clipart(folder: FolderArgument) -> None:
    """Make the clip-art corpus (Tux Paint stamps, Open Clip Art) from Debian packages."""
    from capfilt.pipeline.corpora.clipart import ClipartConfig, make_clipart
    from capfilt.pipeline.prepare import make_corpus

    console = make_console()
    with UserErrors(), Activity(console) as activity:
        activity(f"making {folder}")
        make_corpus(make_clipart, ClipartConfig(), folder)
        activity.stop()
        console.print(f"made {folder}: human/, web/, test/", highlight=False, markup=False)
