"""A folder on any fsspec filesystem: whole-file writes and exclusive creation.

Two guarantees on which commits rely (docs/design.md):

* `put` never leaves an incomplete file under its final name. Local files are written under a temporary name,
  flushed to disk and renamed; object stores receive the whole body in one call, because an exception inside
  an open object-store stream commits what was sent so far.
* `create` has exactly one winner among concurrent writers. Commit records are made with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from fsspec.implementations.local import LocalFileSystem
from msgspec import Struct

from capfilt.stages.storage import local_files
from capfilt.stages.storage.errors import StoreError as StoreError  # where most modules import it from
from capfilt.stages.storage.errors import explain_disk_errors
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.layout import RECORD_SUFFIX
from capfilt.stages.storage.local_files import TEMPORARY_PREFIX
from capfilt.stages.storage.object_store import create_object, find_object, remove_objects
from capfilt.stages.storage.s3_errors import NO_SUCH_BUCKET, code_of, describe_error

DECODE_ERRORS = (msgspec.DecodeError, json.JSONDecodeError, UnicodeDecodeError)
"""What decoding a record raises if its bytes are not JSON, or lack a field."""


class FileEntry(Struct, frozen=True):
    """A written file, as records list it."""

    name: str
    """Without its folder."""
    bytes: int
    sha256: str


class Store:
    """A folder on any filesystem that fsspec supports: `Store("runs/a")`, `Store("s3://bucket/run")`.

    Names of files are relative to the folder and use `/`. Picklable: each process opens the filesystem on
    first use, because s3fs objects must not be carried over a fork.

    Methods that use the filesystem raise StoreError for errors of an object store, and if a local disk takes
    no more data; other errors of a local disk (OSError) are raised unchanged.

    Args:
        url: the folder, a local path or any fsspec URL.
        options: fsspec storage options (endpoint, profile, anonymous access). Credentials belong in the
            environment, not here.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None) -> None:
        self.url = url if "://" in url else os.path.abspath(os.path.expanduser(url))
        self.options = dict(options or {})

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url, "options": self.options}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def __truediv__(self, folder: str) -> Store:
        return Store(f"{self.url.rstrip('/')}/{folder}", self.options)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        try:
            fs, root = open_filesystem(self.url, self.options)
        except (ValueError, ImportError) as error:
            raise StoreError(f"{self.url}: no filesystem for this address ({error})") from error
        return fs, root.rstrip("/")

    @property
    def fs(self) -> Any:
        """The fsspec filesystem, opened in this process."""
        return self._opened[0]

    @property
    def is_older(self) -> bool:
        """Whether this is a run directory of an earlier version; see `stages.storage.run_store`."""
        return False

    def place(self, name: str) -> str:
        """Where the file or folder `name` is: its name, but in a run directory of an earlier version."""
        return name

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a local disk."""
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str = "") -> str:
        """Path of `name` in the filesystem, without protocol."""
        root, name = self._opened[1], self.place(name)
        return f"{root}/{name}" if name else root

    def address(self, name: str) -> str:
        """Path or URL of `name` for users and other libraries, with protocol."""
        return f"{self.url.rstrip('/')}/{self.place(name)}"

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or a folder. Costs two requests to an object store; use `find` if the
        content is needed too."""
        if self.is_local:
            return bool(self.fs.exists(self.path(name)))
        with self._explain_errors("look for", name):
            try:
                self.fs.info(self.path(name))
            except FileNotFoundError as error:
                if code_of(error) == NO_SUCH_BUCKET:
                    raise
                return False
        return True

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: the file is absent.
        """
        if self.is_local:  # ten times as fast as fsspec, which matters for 10^5 records
            return Path(self.path(name)).read_bytes()
        with self._explain_errors("read", name):
            return bytes(self.fs.cat_file(self.path(name)))

    def find(self, name: str) -> bytes | None:
        """The content of a small file, None if it is absent; one request in both cases."""
        if self.is_local:
            try:
                return self.read(name)
            except FileNotFoundError:
                return None
        with self._explain_errors("read", name):
            return find_object(self.fs, self.path(name))

    def read_json(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
            FileNotFoundError: the file is absent.
        """
        data = self.find(name)
        if data is None:
            raise FileNotFoundError(self.address(name))
        return json.loads(data)

    def find_json(self, name: str) -> Any | None:
        """The content of a JSON file, None if it is absent."""
        data = self.find(name)
        return None if data is None else json.loads(data)

    def list(self, folder: str = "", suffix: str = "") -> list[str]:
        """Sorted names directly inside `folder` that end with `suffix`, without temporary files; [] if the
        folder is absent."""
        with self._explain_errors("list", folder):
            try:
                path = self.path(folder)
                entries = os.listdir(path) if self.is_local else self.fs.ls(path, detail=False)
            except FileNotFoundError as error:
                if code_of(error) == NO_SUCH_BUCKET:
                    raise
                return []
        names = (str(entry).rstrip("/").rpartition("/")[2] for entry in entries)
        return sorted(n for n in names if n.endswith(suffix) and not n.startswith(TEMPORARY_PREFIX))

    def walk(self, folder: str) -> Sequence[str]:
        """Sorted names of all files below `folder`, without temporary files; [] if the folder is absent."""
        with self._explain_errors("list", folder):
            paths = map(str, self.fs.find(self.path(folder)))
        names = (path.removeprefix(f"{self.path()}/") for path in paths)
        return sorted(name for name in names if not PurePosixPath(name).name.startswith(TEMPORARY_PREFIX))

    def put(self, name: str, data: bytes) -> FileEntry:
        """Write a whole file, replacing an existing one.

        Returns:
            The entry of the file for a commit record.
        """
        if self.is_local:
            with explain_disk_errors(self.path(name)):
                os.replace(self._write_temporary(name, data), self.path(name))
        else:
            with self._explain_errors("write", name):
                self.fs.pipe_file(self.path(name), data)  # in parts from 100 MB on
        return FileEntry(PurePosixPath(name).name, len(data), sha256(data))

    def put_file(self, name: str, local_path: str) -> FileEntry:
        """Write the content of a local file of any size, replacing an existing one; memory does not hold it.

        Returns:
            The entry of the file for a record.
        """
        with open(local_path, "rb") as stream:
            digest, size = hashlib.file_digest(stream, "sha256"), os.path.getsize(local_path)
        if self.is_local:
            with explain_disk_errors(self.path(name)):
                os.replace(local_files.copy_temporary(self.path(name), local_path), self.path(name))
        else:
            with self._explain_errors("write", name):
                self.fs.put_file(local_path, self.path(name))  # in parts
        return FileEntry(PurePosixPath(name).name, size, digest.hexdigest())

    def put_json(self, name: str, value: Any) -> None:
        """Write `value` as canonical JSON, replacing an existing file."""
        self.put(name, encode_json(value))

    def create(self, name: str, data: bytes) -> bool:
        """Write a whole file only if it is absent.

        Returns:
            True if this call created the file (or, on object stores, if the file exists with the same
            content); False if it exists.
        """
        if not self.is_local:
            with self._explain_errors("create", name):
                return create_object(self.fs, self.path(name), data)
        with explain_disk_errors(self.path(name)):
            return local_files.publish(self._write_temporary(name, data), self.path(name))

    def remove_file(self, name: str) -> None:
        """Remove one file with one request; nothing happens if it is absent."""
        with self._explain_errors("remove", name), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def remove(self, name: str) -> None:
        """Remove a file, or a folder with its contents; nothing happens if it is absent.

        Records (`*.json`) are removed first: an interrupted removal leaves no record of removed files.

        Raises:
            StoreError: some of the files remain, even if the store reported success.
        """
        path = self.path(name)
        if self.is_local:
            local_files.remove(path, RECORD_SUFFIX)
            return
        with self._explain_errors("remove", name):
            remove_objects(self.fs, path, RECORD_SUFFIX)
            remove_objects(self.fs, path)

    def remove_temporaries(self, folder: str, prefix: str = "") -> None:
        """Remove the temporary files that terminated processes left directly inside a folder to which no
        process writes. Object stores have no temporary files.

        Args:
            prefix: remove only temporaries of files whose final names begin with this.
        """
        if self.is_local:
            local_files.remove_temporaries(self.path(folder), prefix)

    def move(self, name: str, target: str) -> None:
        """Rename a file, replacing `target`; nothing happens if that is done already. On object stores a copy
        inside the store, then a removal.

        Raises:
            FileNotFoundError: neither `name` nor `target` exists.
        """
        if self.exists(target) and not self.exists(name):
            return
        if self.is_local:
            with explain_disk_errors(self.path(target)):
                os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
                os.replace(self.path(name), self.path(target))
            return
        with self._explain_errors("move", name):
            self.fs.cp_file(self.path(name), self.path(target))
            self.fs.rm_file(self.path(name))

    def take(self, source: Store, name: str) -> None:
        """Give this folder the file `name` of another folder of the filesystem, replacing an existing one: as
        a hard link on a disk, as a copy made by the server on an object store."""
        if self.is_local:
            with explain_disk_errors(self.path(name)):
                local_files.link(source.path(name), self.path(name))
            return
        with self._explain_errors("write", name):
            self.fs.cp_file(source.path(name), self.path(name))

    @contextlib.contextmanager
    def _explain_errors(self, operation: str, name: str) -> Iterator[None]:
        """Raise errors of an object store's libraries as a StoreError of one line. FileNotFoundError of an
        absent file and errors of a local disk pass unchanged."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            is_absent = isinstance(error, FileNotFoundError) and code_of(error) != NO_SUCH_BUCKET
            if self.is_local or is_absent:
                raise
            raise StoreError(
                f"{self.address(name)}: cannot {operation} it ({describe_error(error)})"
            ) from error

    def _write_temporary(self, name: str, data: bytes) -> str:
        return local_files.write_temporary(self.path(name), data)


def sha256(data: bytes) -> str:
    """SHA-256 of `data` in hex digits."""
    return hashlib.sha256(data).hexdigest()


def encode_json(value: Any) -> bytes:
    """Canonical JSON: equal values give equal bytes, so that files and fingerprints can be compared."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()
