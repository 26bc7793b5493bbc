"""Finds the files that a `manifest` key names by listings, so that 10^5 tars cost a hundred requests."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fsspec.implementations.local import LocalFileSystem
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
    ".tgz": "tar",
}
WILDCARDS = "*?["
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
RANGE_LIMIT = 1_000_000
IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"}

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
            fs, path = open_filesystem(expand_home(pattern), config.storage_options)
            listing = sorted((n, i) for n, i in _list_files(fs, path).items() if _is_regular(i))
            files.extend(_describe_file(fs, str(name), info, config, section) for name, info in listing)
        except ManifestError as error:
            line = str(error)
            if not line.startswith(section):
                line = f"{section}.manifest: {redact_query(pattern)}: {line}"
            raise ManifestError(line) from error
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


def expand_home(address: str) -> str:
    """A path with `~` as the shell would have it."""
    return os.path.expanduser(address) if address.startswith("~") else address


def redact_query(address: str) -> str:
    """An address without the query of a web address, which may contain a credential."""
    return address.partition("?")[0] if address.lower().startswith(("http://", "https://")) else address


def _is_regular(info: FileInfo) -> bool:
    """Whether a file is no pipe or device. The listing of a disk says "other" for links too."""
    return info.get("type") != "other" or bool(info.get("islink"))


def _list_files(fs: Any, path: str) -> dict[str, FileInfo]:
    """{path: info} of the files that a path, range, folder or glob names; empty if there are none."""
    if any(c in path for c in "*?[{"):
        literal = _find_literal(fs, path)
        if literal is not None:
            return {path: literal}
    if RANGE.search(path):
        return _match_range(fs, path)
    if any(c in path for c in WILDCARDS):
        return _without_companions(_without_hidden(_match_glob(fs, path), path))
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
    known = {name: info for name, info in listing.items() if _suffix(name) in suffixes}
    shown = {name: info for name, info in known.items() if not _is_hidden(name[len(path) :], "._")}
    if listing and not shown:
        raise ManifestError(_describe_folder(listing, len(known)))
    return _without_companions(shown)


def _find_literal(fs: Any, path: str) -> FileInfo | None:
    """The file whose name is the pattern itself, such as `urls [v1].csv`. On a store this costs a request, so
    it is tried only for brackets: hardly any name has a star."""
    if not (isinstance(fs, LocalFileSystem) or "[" in path):
        return None
    with suppress(FileNotFoundError, PermissionError, ValueError):
        info: FileInfo = fs.info(path)
        if info["type"] != "directory":
            return info
    return None


def _match_range(fs: Any, path: str) -> dict[str, FileInfo]:
    """The files of a range such as `{00000..00123}.tar`, in its order.

    Raises:
        ManifestError: the range is reversed or too long, or a file of it is absent.
    """
    names = _expand_ranges(path)
    present = _match_glob(fs, RANGE.sub("*", path))
    for name in names:
        if name not in present:
            raise ManifestError(f"no file {redact_query(name)} of the range; give the numbers that exist")
    return {name: present[name] for name in names}


def _expand_ranges(path: str) -> list[str]:
    match = RANGE.search(path)
    if match is None:
        return [path]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    ends = _expand_ranges(path[match.end() :])
    if not 0 < len(numbers) * len(ends) <= RANGE_LIMIT:
        raise ManifestError(
            f"{match.group()} has {len(numbers):,} numbers; allowed: 1 to {RANGE_LIMIT:,}, upwards"
        )
    start = path[: match.start()]
    return [f"{start}{number:0{len(first)}d}{end}" for number in numbers for end in ends]


def _without_hidden(listing: dict[str, FileInfo], pattern: str) -> dict[str, FileInfo]:
    """Without names that a glob matches in Spark or a shell only if it says so: `._part-0.csv`, and what is
    in folders like `_temporary`."""
    fixed = len(re.split(r"[*?\[]", pattern, maxsplit=1)[0].rpartition("/")[0])
    explicit = pattern[fixed:].replace("/", "").startswith((".", "_"))
    kept = {}
    for name, info in listing.items():
        folder, _, file = name[fixed:].rpartition("/")
        if explicit or not (_is_hidden(folder, "._") or _is_hidden(file, ".")):
            kept[name] = info
    return kept


def _is_hidden(path: str, marks: str) -> bool:
    return any(part[:1] in marks for part in path.split("/") if part)


def _without_companions(listing: dict[str, FileInfo]) -> dict[str, FileInfo]:
    """Without the files that img2dataset and capfilt write beside each tar: they list its own samples."""
    tars = {name.removesuffix(".tar") for name in listing if name.endswith(".tar")}
    return {
        name: info
        for name, info in listing.items()
        if not name.endswith((".parquet", ".json", ".jsonl"))
        or name.rpartition(".")[0].removesuffix("_stats") not in tars
    }


def _describe_folder(listing: Mapping[str, FileInfo], hidden: int) -> str:
    endings = Counter(_suffix(name) or "no suffix" for name in listing)
    seen = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(6))
    reason = "all of them hidden (names with _ or .)" if hidden else "none of them a manifest"
    advice = ""
    if IMAGE_ENDINGS & set(endings):
        advice = (
            "; list the images in a file with columns file_name and caption, and set `images` to the folder"
        )
    return f"it has {len(listing)} files, {reason}: {seen}; allowed: {', '.join(FORMATS)}{advice}"


def _match_glob(fs: Any, pattern: str) -> dict[str, FileInfo]:
    folder, _, last = pattern.rpartition("/")
    if last[:1] not in WILDCARDS or "**" in last or any(c in folder for c in WILDCARDS):
        return {n: i for n, i in fs.glob(pattern, detail=True).items() if i["type"] != "directory"}
    # For the usual `folder/*.tar` fsspec's glob would list the folder twice.
    match = re.compile(glob_translate(pattern)).match
    try:
        return {
            info["name"]: info
            for info in fs.ls(folder, detail=True)
            if match(info["name"]) and info["type"] != "directory"
        }
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
