"""Opens checkpoints before they are needed, in a process of its own, as a worker will open them.

The program that asks imports no torch, and a file that ends the process which reads it does not end the
program.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from capfilt.models.checkpoints.files import CheckpointError
from capfilt.models.config import Parts

# `-P` and the parent's path: no file of the working directory is taken for a module.
_CODE = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from capfilt.models.checkpoints.check import main; main(json.loads(sys.argv[2]))"
)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A checkpoint and how it will be loaded: the arguments of `load_checkpoint`, and what it is for."""

    path: str
    parts: Parts
    image_size: int | None = None
    tokenizer: str | None = None
    for_dialogs: bool = False
    """Whether the model also has to read dialogs (`network.dialog.check_dialog_model`)."""


def check_checkpoints(openings: Sequence[Opening]) -> list[str | None]:
    """What is wrong with each checkpoint, in one line; None if it can be loaded.

    Costs the import of torch and the reading of all weights: seconds.
    """
    if not openings:
        return []
    arguments = [json.dumps(sys.path), json.dumps([asdict(opening) for opening in openings])]
    child = subprocess.run(
        [sys.executable, "-P", "-c", _CODE, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    # The child reports after each checkpoint, so that one which ends the process is known.
    found: list[str | None] = [json.loads(line) for line in child.stdout.splitlines()]
    if len(found) < len(openings):
        path = openings[len(found)].path
        found.append(f"{path} cannot be opened: {_describe_end(child.returncode, child.stderr)}")
        found += check_checkpoints(openings[len(found) :]) if openings[len(found) :] else []
    return found


def _describe_end(code: int, stderr: str) -> str:
    if code < 0:
        return f"the process that read it was ended by signal {-code}; there may be too little memory"
    return next((line.strip() for line in reversed(stderr.splitlines()) if line.strip()), f"exit code {code}")


def main(openings: Sequence[Mapping[str, object]]) -> None:
    """Load each checkpoint and print what is wrong with it as a line of JSON; runs in the child."""
    out, sys.stdout = sys.stdout, sys.stderr  # libraries may print
    from capfilt.models.checkpoints.load import load_checkpoint
    from capfilt.models.network.dialog import check_dialog_model

    for opening in openings:
        message, arguments, med = None, dict(opening), None
        for_dialogs = arguments.pop("for_dialogs")
        try:
            med, _, _ = load_checkpoint(**arguments)  # type: ignore[arg-type]
        except CheckpointError as error:
            message = str(error)
        if med is not None and for_dialogs:
            try:
                check_dialog_model(med)
            except ValueError as error:
                message = f"{arguments['path']}: {error}"
        print(json.dumps(message), file=out, flush=True)
