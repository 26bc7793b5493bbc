"""The files that a `manifest` key names: found by listing, so that 10^5 tars cost a hundred requests, not 10^5."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fsspec.utils import glob_translate

from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.text import captions_beside
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.s3_errors import NO_SUCH_BUCKET, code_of, reason

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".txt": "txt",
    ".tar": "tar",
}
WILDCARDS = "*?["

Info = Mapping[str, Any]
"""What a filesystem says of a file: `size`, and by which keys it has when it changed."""


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest: its filesystem, path and form."""

    fs: Any
    path: str
    form: str
    marks: tuple[str, ...]
    """Name, size and modification mark, of the file and of its captions: other ones for another content."""
    captions: str | None = None
    """Path of the file whose lines are the captions of these urls."""

    def __str__(self) -> str:
        return redact_query(self.path)


def manifest_files(config: ManifestConfig, where: str) -> list[ManifestFile]:
    """Every file the `manifest` key names, in a fixed order. A folder or glob on an object store costs a request for
    1,000 of its files, a file that is named costs one.

    Raises:
        ManifestError: a part of the key names no file, cannot be read, or a file whose form is unknown.
    """
    patterns = [config.manifest] if isinstance(config.manifest, str) else list(config.manifest)
    if not any(patterns):
        raise ManifestError(f"{where}.manifest: nothing given; name a file, folder or glob")
    found: list[ManifestFile] = []
    for pattern in patterns:
        try:
            fs, path = open_filesystem(pattern, config.storage_options)
            listed = sorted(_listed(fs, path).items())
            found.extend(_file(fs, str(name), info, config, where) for name, info in listed)
        except ManifestError:
            raise
        except Exception as error:  # any library's: unreachable, no such bucket, no credentials
            said = reason(error).replace(pattern, redact_query(pattern))
            raise ManifestError(f"{where}.manifest: cannot read {redact_query(pattern)} ({said})") from error
        if not listed:
            raise ManifestError(
                f"{where}.manifest: no file at {redact_query(pattern)}; give an existing file, folder or glob"
            )
    return found


def redact_query(address: str) -> str:
    """An address without the query of a web address, in which there may be a credential."""
    return address.partition("?")[0] if address.lower().startswith(("http://", "https://")) else address


def _listed(fs: Any, path: str) -> dict[str, Info]:
    """What is known of each file that an address names; empty if there is none."""
    if any(c in path for c in WILDCARDS):
        return _matching(fs, path)
    if _suffix(path) in FORMATS:
        # Most likely a file. A folder of such a name is none, and may be closed to whoever asks for a file.
        with suppress(FileNotFoundError, PermissionError):
            info = fs.info(path)
            if info["type"] != "directory":
                return {path: info}
    found: dict[str, Info] = fs.find(path, detail=True)
    if list(found) == [path]:  # a file of another name
        return found
    # A text file in a folder is as likely a note, or the captions of another one.
    forms = set(FORMATS) - {".txt"}
    return {name: info for name, info in found.items() if _suffix(name) in forms}


def _matching(fs: Any, pattern: str) -> dict[str, Info]:
    folder, _, last = pattern.rpartition("/")
    if last[:1] not in WILDCARDS or "**" in last or any(c in folder for c in WILDCARDS):
        return dict(fs.glob(pattern, detail=True))
    # The usual `folder/*.tar`: fsspec's glob would list the folder twice.
    match = re.compile(glob_translate(pattern)).match
    try:
        return {info["name"]: info for info in fs.ls(folder, detail=True) if match(info["name"])}
    except FileNotFoundError as error:
        if code_of(error) == NO_SUCH_BUCKET:
            raise
        return {}


def _file(fs: Any, path: str, info: Info, config: ManifestConfig, where: str) -> ManifestFile:
    form = _form(path, config, where)
    marks = [_mark(fs, path, info)]
    captions = captions_beside(path) if form == "txt" else None
    if captions is not None:
        try:
            marks.append(_mark(fs, captions, fs.info(captions)))
        except FileNotFoundError:
            captions = None
    return ManifestFile(fs, path, form, tuple(marks), captions)


def _mark(fs: Any, path: str, info: Info) -> str:
    if info.get("size") is None or info.get("islink"):  # a listing that says less than the file itself
        info = fs.info(path)
    mark = info.get("ETag") or info.get("mtime") or info.get("LastModified") or ""
    return f"{PurePosixPath(path).name}\0{info.get('size')}\0{mark}\n"


def _suffix(path: str) -> str:
    return PurePosixPath(redact_query(path).removesuffix(".gz")).suffix.lower()


def _form(path: str, config: ManifestConfig, where: str) -> str:
    if config.format != "auto":
        return config.format
    form = FORMATS.get(_suffix(path))
    if form is None:
        raise ManifestError(
            f"{where}.manifest: cannot tell the form of {redact_query(path)} by its name; "
            f"allowed endings: {', '.join(FORMATS)} (also .gz), or set {where}.format"
        )
    return form
