"""The pictures that a command is given: files, folders, patterns, lists on stdin and addresses on the web."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice

from capfilt.pipeline.config.load import refuse_credentials
from capfilt.pipeline.testset.images import ANY_IMAGE, read_images
from capfilt.pipeline.testset.layouts import TestImage
from capfilt.stages.errors import UserError
from capfilt.stages.images.decode import decode_and_resize
from capfilt.stages.status import SUCCESS, Failure, one_line
from capfilt.stages.storage.filesystems import open_filesystem

STDIN = "-"
SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".gif", ".webp", ".avif", ".bmp", ".ico", ".tif",
    ".tiff", ".jp2", ".j2k", ".ppm", ".pgm", ".pbm",
)  # fmt: skip
"""Names that count as pictures in a folder. A file that is named itself is read whatever its name is."""
READERS = 8
"""Pictures that are read and checked at the same time."""
MAX_BYTES = 200_000_000
"""Largest file that is read; downloads have the limit of runs."""
WEB = ("http://", "https://")


class PictureError(UserError):
    """An argument names no picture; the message says which one and what is allowed."""


@dataclass(frozen=True)
class Picture:
    """A picture, or the reason why there is none."""

    path: str
    image: bytes | None
    """Encoded."""
    status: str = SUCCESS
    """A name of `stages.status.STATUSES`."""
    message: str | None = None


def find_pictures(arguments: Sequence[str]) -> Iterator[str]:
    """The paths and addresses of all pictures that the arguments name, lazily.

    Args:
        arguments: each a file, a folder (searched with its folders, in the order of names), a pattern as
            `photos/**/*.jpg`, a URL, or "-" for paths on stdin, one a line.

    Raises:
        PictureError: an argument names nothing; before the first path is returned.
    """
    if list(arguments).count(STDIN) > 1:
        raise PictureError(f"IMAGE {STDIN}: given twice, but stdin can be read once; remove one")
    return chain.from_iterable([_expand(argument) for argument in arguments])


def _expand(argument: str) -> Iterable[str]:
    if argument == STDIN:
        return _paths_on_stdin()
    if "://" in argument:
        refuse_credentials(argument, "IMAGE")
        return [argument]
    path = os.path.expanduser(argument)
    if os.path.isdir(path):
        return _first_of(_walk(path), argument, f"no picture in it (names that end with {_examples()})")
    if os.path.exists(path):
        return [path]
    if glob.has_magic(path):
        matches = sorted(glob.iglob(path, recursive=True))
        found = (each for match in matches for each in (_walk(match) if os.path.isdir(match) else [match]))
        return _first_of(found, argument, "no picture matches this pattern")
    raise PictureError(
        f"IMAGE {argument}: there is no such file or folder; give a file, a folder, a pattern in quotes, a "
        f"URL, or {STDIN} for paths on stdin"
    )


def _first_of(paths: Iterator[str], argument: str, problem: str) -> Iterable[str]:
    """The paths, of which there is at least one."""
    first = next(paths, None)
    if first is None:
        raise PictureError(f"IMAGE {argument}: {problem}; give another place")
    return chain([first], paths)


def _examples() -> str:
    return ", ".join(SUFFIXES[:5]) + ", …"


def _walk(folder: str) -> Iterator[str]:
    """The pictures below a folder, without hidden files and folders."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith("."):
                yield os.path.join(place, name)


def _paths_on_stdin() -> Iterator[str]:
    for line in sys.stdin.buffer:
        path = os.fsdecode(line.rstrip(b"\r\n"))
        if path.strip():
            yield path


def read_pictures(paths: Iterable[str], size: int) -> Iterator[list[Picture]]:
    """Read pictures, `size` at a time; the next ones are read meanwhile. A broken picture has its reason."""
    remaining = iter(paths)
    with ThreadPoolExecutor(READERS) as pool, ThreadPoolExecutor(1) as ahead:

        def read_next() -> list[Picture]:
            chunk = list(islice(remaining, size))
            web = iter(_read_from_web([path for path in chunk if path.startswith(WEB)]))
            own = pool.map(read_picture, [path for path in chunk if not path.startswith(WEB)])
            return [next(web) if path.startswith(WEB) else next(own) for path in chunk]

        pending = ahead.submit(read_next)
        while pictures := pending.result():
            pending = ahead.submit(read_next)
            yield pictures


def read_picture(path: str) -> Picture:
    """Read and check a picture of a local or any other file system."""
    try:
        data = _read_store(path) if "://" in path else _read_file(path)
        return Picture(path, decode_and_resize(data, ANY_IMAGE).image)
    except Failure as failure:
        return Picture(path, None, failure.status, failure.message)


def _read_file(path: str) -> bytes:
    try:
        if os.path.isdir(path):
            raise Failure("missing_file", "this is a folder")
        _check_size(os.path.getsize(path))
        with open(path, "rb") as stream:
            return stream.read()
    except (OSError, ValueError) as error:  # ValueError: a name with a null character
        raise Failure("missing_file", getattr(error, "strerror", None) or str(error)) from error


def _read_store(address: str) -> bytes:
    try:
        refuse_credentials(address, "IMAGE")
        fs, path = open_filesystem(address)
        _check_size(fs.size(path) or 0)
        return fs.cat_file(path)  # type: ignore[no-any-return]
    except FileNotFoundError as error:
        raise Failure("missing_file", "nothing at this address") from error
    except Failure:
        raise
    except Exception as error:  # any library's: no such store, access denied, unreachable
        raise Failure("connect", f"{type(error).__name__}: {error}") from error


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise Failure("too_big", f"{size:,} bytes, the limit is {MAX_BYTES:,}")


def _read_from_web(addresses: Sequence[str]) -> list[Picture]:
    """Download pictures as runs do: politely, and not from private addresses."""
    if not addresses:
        return []
    wanted = [TestImage({"url": address, "texts": []}, None) for address in addresses]  # type: ignore[typeddict-item]
    read = read_images(wanted, ".", lambda done: None)
    return [
        Picture(path, data, image.status, image.message and one_line(image.message))
        for path, image, data in zip(addresses, wanted, read, strict=True)
    ]
