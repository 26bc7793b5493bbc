"""Files of a run on any fsspec filesystem: whole-object writes, and one exclusive create.

Two guarantees everything else stands on (shared design, contract 4):

* `put` never leaves a torn object under its final name. Local files are written under a temporary name,
  flushed to disk and renamed; object stores receive the whole body in one call, because an exception inside
  an open object-store stream commits whatever was sent so far.
* `create` lets exactly one writer win. It is what a commit record is made with.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import random
import time
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from fsspec.implementations.local import LocalFileSystem
from msgspec import Struct

from capfilt.stages.errors import UserError
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.s3_errors import NO_SUCH_BUCKET, code_of
from capfilt.stages.storage.s3_errors import reason as reason

TEMPORARY_PREFIX = ".tmp-"
RECORD = ".json"
"""Ending of what says that other files are whole."""
TAKEN = ("PreconditionFailed", "412")
"""S3's codes for a conditional write that came second."""
CONFLICT = "ConditionalRequestConflict"
"""S3's code for conditional writes that met; the request is to be sent again."""
ROUNDS = 4
"""Times something that should work when it is tried again is tried."""


DAMAGED = (msgspec.DecodeError, json.JSONDecodeError, UnicodeDecodeError)
"""What decoding a record raises when its bytes are not JSON, or lack a field."""


class FileEntry(Struct, frozen=True):
    """A written file, as records list it."""

    name: str
    """Without its folder."""
    bytes: int
    sha256: str


class StoreError(UserError):
    """A place the user named cannot be reached, read or written; the message says which and why."""


class Store:
    """A folder anywhere fsspec reaches: `Store("runs/a")`, `Store("s3://bucket/run")`.

    Picklable: the filesystem is opened on first use in each process, because s3fs objects must not be
    carried over a fork.

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

    def __truediv__(self, name: str) -> Store:
        return Store(f"{self.url.rstrip('/')}/{name}", self.options)

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
    def is_local(self) -> bool:
        return isinstance(self.fs, LocalFileSystem)

    def path(self, name: str = "") -> str:
        """Path of `name` inside the store, as the filesystem spells it (no protocol)."""
        root = self._opened[1]
        return f"{root}/{name}" if name else root

    def address(self, name: str) -> str:
        """Path of `name` as a user or another library would write it (with protocol)."""
        return f"{self.url.rstrip('/')}/{name}"

    def exists(self, name: str = "") -> bool:
        """Whether there is a file or a folder. Asks an object store twice; `get` is cheaper where the content is
        wanted anyway."""
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
        """Whole content of `name`; FileNotFoundError when absent."""
        if self.is_local:  # fsspec's own way costs ten times as much, which 10^5 records feel
            return Path(self.path(name)).read_bytes()
        with self._explain_errors("read", name):
            return bytes(self.fs.cat_file(self.path(name)))

    def get(self, name: str) -> bytes | None:
        """Whole content of a small file, None when absent; one request either way."""
        if self.is_local:
            try:
                return self.read(name)
            except FileNotFoundError:
                return None
        with self._explain_errors("read", name):
            try:
                # Without a start s3fs asks for the size first.
                return bytes(self.fs.cat_file(self.path(name), start=0))
            except FileNotFoundError as error:
                if code_of(error) == NO_SUCH_BUCKET:
                    raise
                return None
            except OSError as error:
                if code_of(error) == "InvalidRange":  # of a file without bytes
                    return b""
                raise

    def read_json(self, name: str) -> Any:
        """Content of a record; FileNotFoundError when absent."""
        data = self.get(name)
        if data is None:
            raise FileNotFoundError(self.address(name))
        return json.loads(data)

    def find_json(self, name: str) -> Any | None:
        """Content of a record, None when absent."""
        data = self.get(name)
        return None if data is None else json.loads(data)

    def list(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names directly inside `folder` that end with `suffix`, sorted, temporaries left out; [] if absent."""
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

    def put(self, name: str, data: bytes) -> FileEntry:
        """Write `data` as `name` in one piece, replacing what was there.

        Returns:
            What a commit record lists for the file.
        """
        if self.is_local:
            temporary = self._write_temporary(name, data)
            os.replace(temporary, self.path(name))
        else:
            with self._explain_errors("write", name):
                self.fs.pipe_file(self.path(name), data)  # in parts from 100 MB on
        return FileEntry(PurePosixPath(name).name, len(data), sha256(data))

    def put_json(self, name: str, value: Any) -> None:
        self.put(name, encode_json(value))

    def create(self, name: str, data: bytes) -> bool:
        """Write `data` as `name` only if nothing is there yet.

        Returns:
            True if this call made it, or exactly this stands there already; False if something else does.
        """
        if not self.is_local:
            with self._explain_errors("create", name):
                return self._create_object(name, data)
        temporary = self._write_temporary(name, data)
        try:
            # A hard link appears whole or not at all and fails if the name is taken; rename would replace.
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def remove_file(self, name: str) -> None:
        """Remove one file, by one request; nothing happens when it is absent."""
        with self._explain_errors("remove", name), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(name))

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens when it is absent.

        Records (`*.json`) go first: of a removal that is broken off no record is left that stands for files.

        Raises:
            StoreError: some of it stays, whatever the store says.
        """
        path = self.path(name)
        if self.is_local:
            if self.fs.exists(path):
                for record in Path(path).rglob(f"*{RECORD}"):
                    record.unlink(missing_ok=True)
                self.fs.rm(path, recursive=True)
            return
        with self._explain_errors("remove", name):
            self._remove_objects(path, RECORD)
            self._remove_objects(path, "")

    def _remove_objects(self, path: str, ending: str) -> None:
        # s3fs passes over the keys that S3 could not delete: what is left decides.
        for _ in range(ROUNDS):
            left = [each for each in self.fs.find(path) if each.endswith(ending)]
            if not left:
                return
            if glob.has_magic(path):  # fsspec would take a list of such names for patterns
                for each in left:
                    self.fs.rm_file(each)
            else:
                self.fs.rm(left)
        if left := [each for each in self.fs.find(path) if each.endswith(ending)]:
            raise OSError(f"{len(left)} files stay, {left[0]} among them")

    def remove_temporaries(self, folder: str, of: str = "") -> None:
        """Remove what writes that died have left directly inside a local folder where nobody writes any more; on
        object stores they leave nothing.

        Args:
            of: how the names begin that were to be written; all when empty.
        """
        path = Path(self.path(folder))
        if self.is_local and path.is_dir():
            for each in path.glob(f"{TEMPORARY_PREFIX}{of}*"):
                each.unlink(missing_ok=True)

    def move(self, name: str, target: str) -> None:
        """Give the file `name` the name `target`, replacing what was there; nothing happens when that was done
        before. On object stores a copy inside the store, then a removal."""
        if self.exists(target) and not self.exists(name):
            return
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
            os.replace(self.path(name), self.path(target))
            return
        with self._explain_errors("move", name):
            self.fs.cp_file(self.path(name), self.path(target))
            self.fs.rm_file(self.path(name))

    @contextlib.contextmanager
    def _explain_errors(self, doing: str, name: str) -> Iterator[None]:
        """What an object store's libraries raise, as one line; absent files and taken names stay what they are, and
        so do the system's own errors about a local disk."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            absent = isinstance(error, FileNotFoundError) and code_of(error) != NO_SUCH_BUCKET
            if self.is_local or absent:
                raise
            raise StoreError(f"{self.address(name)}: cannot {doing} it ({reason(error)})") from error

    def _create_object(self, name: str, data: bytes) -> bool:
        for _ in range(ROUNDS):
            try:
                self.fs.pipe_file(self.path(name), data, mode="create")
                return True
            except Exception as error:
                if isinstance(error, FileExistsError) or code_of(error) in TAKEN:
                    # A request whose answer was lost is sent again, and meets its own object.
                    return self.get(name) == data
                if code_of(error) != CONFLICT:
                    raise
            time.sleep(random.uniform(0, 1))
        raise OSError("other writers were in the way every time")

    def _write_temporary(self, name: str, data: bytes) -> str:
        path = self.path(name)
        folder, base = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{base}-{uuid.uuid4().hex[:8]}")
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except BaseException:
            if os.path.exists(temporary):
                os.unlink(temporary)
            raise
        return temporary


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def encode_json(value: Any) -> bytes:
    """Canonical JSON: equal values give equal bytes, so that files and fingerprints can be compared."""
    return (json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()
