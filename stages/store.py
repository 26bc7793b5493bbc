"""Files of a run on any fsspec filesystem: whole-object writes, and one exclusive create.

Two guarantees everything else stands on (shared design, contract 4):

* `put` never leaves a torn object under its final name. Local files are written under a temporary name,
  flushed to disk and renamed; object stores receive the whole body in one call, because an exception inside
  an open object-store stream commits whatever was sent so far.
* `create` lets exactly one writer win. It is what a commit record is made with.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

TEMPORARY_PREFIX = ".tmp-"


class StoreError(ValueError):
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
            fs, root = fsspec.core.url_to_fs(self.url, **self.options)
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
        return bool(self.fs.exists(self.path(name)))

    def read(self, name: str) -> bytes:
        """Whole content of `name`; FileNotFoundError when absent."""
        return bytes(self.fs.cat_file(self.path(name)))

    def read_json(self, name: str) -> Any:
        return json.loads(self.read(name))

    def list(self, folder: str = "", suffix: str = "") -> list[str]:
        """Names directly inside `folder` that end with `suffix`, sorted, temporaries left out; [] if absent."""
        try:
            entries = self.fs.ls(self.path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = (PurePosixPath(str(entry)).name for entry in entries)
        return sorted(n for n in names if n.endswith(suffix) and not n.startswith(TEMPORARY_PREFIX))

    def put(self, name: str, data: bytes) -> dict[str, Any]:
        """Write `data` as `name` in one piece, replacing what was there.

        Returns:
            {"name", "bytes", "sha256"}: what a commit record lists for the file.
        """
        if self.is_local:
            temporary = self._write_temporary(name, data)
            os.replace(temporary, self.path(name))
        else:
            self.fs.pipe_file(self.path(name), data)
        return {"name": PurePosixPath(name).name, "bytes": len(data), "sha256": sha256(data)}

    def put_json(self, name: str, value: Any) -> None:
        self.put(name, encode_json(value))

    def create(self, name: str, data: bytes) -> bool:
        """Write `data` as `name` only if nothing is there yet.

        Returns:
            True if this call made it, False if somebody else's stands there already.
        """
        if not self.is_local:
            try:
                self.fs.pipe_file(self.path(name), data, mode="create")
            except FileExistsError:
                return False
            return True
        temporary = self._write_temporary(name, data)
        try:
            # A hard link appears whole or not at all and fails if the name is taken; rename would replace.
            os.link(temporary, self.path(name))
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        return True

    def remove(self, name: str) -> None:
        """Remove a file or a folder with all it holds; nothing happens when it is absent."""
        path = self.path(name)
        if self.fs.exists(path):
            self.fs.rm(path, recursive=True)

    def move(self, name: str, target: str) -> None:
        """Give the file `name` the name `target`, replacing what was there; nothing happens when that was done
        before. On object stores a copy inside the store, then a removal."""
        if self.exists(target) and not self.exists(name):
            return
        if self.is_local:
            os.makedirs(os.path.dirname(self.path(target)), exist_ok=True)
            os.replace(self.path(name), self.path(target))
        else:
            self.fs.cp_file(self.path(name), self.path(target))
            self.fs.rm_file(self.path(name))

    def walk(self, folder: str = "") -> Iterator[str]:
        """Names of all files below `folder`, relative to the store, sorted."""
        base = self.path()
        for path in sorted(self.fs.find(self.path(folder))):
            yield str(path)[len(base) + 1 :]

    def check_writable(self) -> None:
        """Write and remove one small object.

        Raises:
            StoreError: naming the place and the reason, so that a run fails in its first second.
        """
        probe = f"{TEMPORARY_PREFIX}probe-{uuid.uuid4().hex}"
        try:
            self.put(probe, b"capfilt")
            self.remove(probe)
        except Exception as error:  # any library's error for "no such bucket", "denied", "unreachable"
            raise StoreError(f"run.dir {self.url}: cannot write there ({_reason(error)})") from error

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


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
