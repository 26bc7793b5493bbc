"""One command from its pictures and its model to the last printed line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from capfilt.pipeline.console.activity import Activity
from capfilt.pipeline.console.streams import make_console, make_error_console, print_labeled
from capfilt.pipeline.use.models import (
    ChosenModel,
    Work,
    check_device,
    choose_model,
    load_model,
)
from capfilt.pipeline.use.output import Lines, print_all
from capfilt.pipeline.use.pictures import find_pictures, read_pictures
from capfilt.pipeline.use.request import ModelRequest

if TYPE_CHECKING:
    from capfilt.models.network.med import MED
    from capfilt.models.network.tokenizer import Tokenizer
    from capfilt.pipeline.use.describe import Describer, Record

MakeDescriber = Callable[["tuple[MED, Tokenizer]", ChosenModel, int], "Describer"]
"""Makes what turns pictures into records, from a model, what is known of it, and the batch size."""


def run_command(
    images: Sequence[str],
    request: ModelRequest,
    work: Work,
    make: MakeDescriber,
    as_json: bool | None,
    say: Callable[[Record], str],
    heading: str = "image",
) -> None:
    """Describe all pictures with the model of a request, and print the records.

    Args:
        images: the arguments of the command.
        as_json: JSON lines, or lines for people; None: for people if stdout is a terminal.
        say: a record in words.
        heading: the field by which records are grouped for people.

    Raises:
        SystemExit: with code 1 if a picture could not be read.
        UserError: a mistake in the arguments.
    """
    errors = make_error_console()
    is_json = not sys.stdout.isatty() if as_json is None else as_json
    console = None if is_json else make_console()
    paths, chosen = find_pictures(images), choose_model(request, work)
    # On a terminal the one console shows the spinner and the lines; JSON has stdout for itself.
    with Activity(console if console is not None and console.is_terminal else errors) as activity:
        activity("loading torch")
        check_device(request.device)
        activity(f"reading {chosen.address}")
        med, tokenizer, notes = load_model(chosen, request, work)
        if chosen.is_from_run:
            notes = [f"using {chosen.address}", *notes]
        for note in notes:
            print_labeled(errors, "note", note, "dim")
        from capfilt.pipeline.testset.evaluate import choose_batch_size

        size = request.batch_size or choose_batch_size()
        describer = make((med, tokenizer), chosen, size)
        activity("reading pictures")
        counts = print_all(
            read_pictures(paths, size), describer, Lines(console, say, heading), activity.update
        )
    if counts.failed:
        line = f"{counts.failed:,} of {counts.pictures:,} pictures cannot be used; see their lines"
        print_labeled(errors, "error", line, "bold red")
        raise SystemExit(1)
