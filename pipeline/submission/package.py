"""The folder that `capfilt submit` uploads: the program and the config, nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

import capfilt
from capfilt.pipeline.config.load import dump_config
from capfilt.pipeline.config.paths import SHARED_PLACES, named_paths
from capfilt.pipeline.config.schema import Config
from capfilt.stages.errors import UserError
from capfilt.stages.storage.layout import CONFIG

FOLDERS = ("pipeline", "stages", "models", "cluster", "configs")
"""Parts of the program; in a checkout they lie beside the folder `capfilt`, installed in it."""
SUFFIXES = (".py", ".yaml", ".j2", ".safetensors", ".lock", ".json")
"""Kinds of files that the program consists of."""
MAX_BYTES = 5_000_000
"""Largest folder that is uploaded: more than the program has means that something does not belong to it."""


class SubmissionError(UserError):
    """A run that cannot be submitted; the message says why and what to do."""


def check_paths(config: Config) -> None:
    """Check that no path depends on a folder of this machine.

    Raises:
        SubmissionError: the keys with such paths, in one line.
    """
    local = [f"{named.key}={named.path}" for named in named_paths(config) if not named.is_absolute]
    if local:
        raise SubmissionError(
            f"the cluster does not see files of this folder ({', '.join(local)}); put them on "
            f"{SHARED_PLACES}, and give their address or absolute path, for example --set run.dir=s3://bucket/run"
        )


def write_package(config: Config, folder: Path) -> int:
    """Write the program and the resolved config into a folder.

    Returns:
        Bytes of all files.

    Raises:
        SubmissionError: the program is larger than it should be.
    """
    program = Path(capfilt.__file__ or "").resolve().parent
    is_installed = (program / FOLDERS[0]).is_dir()
    _copy(program, folder / "capfilt")
    if not is_installed:
        for name in FOLDERS:
            _copy(program.parent / name, folder / name)
    (folder / CONFIG).write_text(dump_config(config), encoding="utf-8")
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if (total := sum(sizes.values())) > MAX_BYTES:
        largest = max(sizes, key=lambda path: sizes[path]).relative_to(folder)
        raise SubmissionError(
            f"the program at {program} has {total / 1e6:.1f} MB, at most {MAX_BYTES / 1e6:.0f} MB are "
            f"uploaded; remove what does not belong to it (largest: {largest})"
        )
    return total


def _copy(source: Path, target: Path) -> None:
    def ignored(folder: str, names: list[str]) -> set[str]:
        is_file = {name: (Path(folder) / name).is_file() for name in names}
        return {
            name
            for name in names
            if name == "__pycache__"
            or name.startswith(".")
            or (is_file[name] and not name.endswith(SUFFIXES))
        }

    shutil.copytree(source, target, ignore=ignored)
