"""Finds the files that a `manifest` key names by listings, so that 10^5 tars cost a hundred requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fsspec.utils import glob_translate

from capfilt.stages.manifest.config import ManifestError
from capfilt.stages.manifest.text import captions_path
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.s3_errors import NO_SUCH_BUCKET, code_of, describe_error

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

FileInfo = Mapping[str, Any]
"""What a filesystem says about a file: `size`, and when or in which version it was written."""


@dataclass(frozen=True)
class ManifestFile:
    """One file of a manifest."""

    fs: Any
    path: str
    format: str
    versions: tuple[str, ...]
    """Name, size and version of the file, and of its captions; they change with the content."""
    captions: str | None = None
    """Path of the file with the captions of these urls, line by line."""

    def __str__(self) -> str:
        return redact_query(self.path)


def find_files(config: ManifestConfig, section: str) -> list[ManifestFile]:
    """All files that the `manifest` key names, in a fixed order.

    On an object store a folder or glob costs one request for 1,000 of its files, and a single file costs one
    request.

    Args:
        config: the source's manifest section.
        section: dotted path of that section, for messages.

    Raises:
        ManifestError: an entry of the key matches no file or cannot be read, or a file's format is unknown.
    """
    patterns = [config.manifest] if isinstance(config.manifest, str) else list(config.manifest)
    if not any(patterns):
        raise ManifestError(f"{section}.manifest: empty; give a file, folder or glob")
    files: list[ManifestFile] = []
    for pattern in patterns:
        try:
            fs, path = open_filesystem(pattern, config.storage_options)
            listing = sorted(_list_files(fs, path).items())
            files.extend(_describe_file(fs, str(name), info, config, section) for name, info in listing)
        except ManifestError:
            raise
        except Exception as error:  # any library's: unreachable, no such bucket, no credentials
            cause = describe_error(error).replace(pattern, redact_query(pattern))
            raise ManifestError(
                f"{section}.manifest: cannot read {redact_query(pattern)} ({cause})"
            ) from error
        if not listing:
            raise ManifestError(
                f"{section}.manifest: no file at {redact_query(pattern)}; "
                "give an existing file, folder or glob"
            )
    return files


def redact_query(address: str) -> str:
    """An address without the query of a web address, which may contain a credential."""
    return address.partition("?")[0] if address.lower().startswith(("http://", "https://")) else address


def _list_files(fs: Any, path: str) -> dict[str, FileInfo]:
    """{path: info} of the files that a path, folder or glob names; empty if there are none."""
    if any(c in path for c in WILDCARDS):
        return _match_glob(fs, path)
    if _suffix(path) in FORMATS:
        # Most likely a file. A folder with such a name is not one, and access to its name may be denied.
        with suppress(FileNotFoundError, PermissionError):
            info = fs.info(path)
            if info["type"] != "directory":
                return {path: info}
    listing: dict[str, FileInfo] = fs.find(path, detail=True)
    if list(listing) == [path]:  # a file with another suffix
        return listing
    # A text file in a folder may be a note, or the captions of another file.
    suffixes = set(FORMATS) - {".txt"}
    return {name: info for name, info in listing.items() if _suffix(name) in suffixes}


def _match_glob(fs: Any, pattern: str) -> dict[str, FileInfo]:
    folder, _, last = pattern.rpartition("/")
    if last[:1] not in WILDCARDS or "**" in last or any(c in folder for c in WILDCARDS):
        return dict(fs.glob(pattern, detail=True))
    # For the usual `folder/*.tar` fsspec's glob would list the folder twice.
    match = re.compile(glob_translate(pattern)).match
    try:
        return {info["name"]: info for info in fs.ls(folder, detail=True) if match(info["name"])}
    except FileNotFoundError as error:
        if code_of(error) == NO_SUCH_BUCKET:
            raise
        return {}


def _describe_file(fs: Any, path: str, info: FileInfo, config: ManifestConfig, section: str) -> ManifestFile:
    format_ = _format_of(path, config, section)
    versions = [_version_of(fs, path, info)]
    captions = captions_path(path) if format_ == "txt" else None
    if captions is not None:
        try:
            versions.append(_version_of(fs, captions, fs.info(captions)))
        except FileNotFoundError:
            captions = None
    return ManifestFile(fs, path, format_, tuple(versions), captions)


def _version_of(fs: Any, path: str, info: FileInfo) -> str:
    """See `ManifestFile.versions`."""
    if info.get("size") is None or info.get("islink"):  # listings say less than the file itself
        info = fs.info(path)
    version = info.get("ETag") or info.get("mtime") or info.get("LastModified") or ""
    return f"{PurePosixPath(path).name}\0{info.get('size')}\0{version}\n"


def _suffix(path: str) -> str:
    return PurePosixPath(redact_query(path).removesuffix(".gz")).suffix.lower()


def _format_of(path: str, config: ManifestConfig, section: str) -> str:
    if config.format != "auto":
        return config.format
    format_ = FORMATS.get(_suffix(path))
    if format_ is None:
        raise ManifestError(
            f"{section}.manifest: unknown suffix of {redact_query(path)}; "
            f"allowed: {', '.join(FORMATS)} (also with .gz), or set {section}.format"
        )
    return format_
