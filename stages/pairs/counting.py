"""A store that counts the bytes of the files that are read through it."""

from __future__ import annotations

from typing import Any, cast

from capfilt.stages.storage.store import Store


class _CountedReads:
    """Everything that the store has, with a counter at its two ways to read a whole file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.bytes = 0

    def read(self, name: str) -> bytes:
        data = self._store.read(name)
        self.bytes += len(data)
        return data

    def find(self, name: str) -> bytes | None:
        data = self._store.find(name)
        self.bytes += len(data or b"")
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __truediv__(self, folder: str) -> Store:
        return self._store / folder


class ReadCounter:
    """Counts what is read from a store by `read` and `find`.

    Attributes:
        store: the same store; pass it to whatever reads.
    """

    def __init__(self, store: Store) -> None:
        self._counted = _CountedReads(store)
        self.store = cast(Store, self._counted)

    @property
    def bytes(self) -> int:
        """Bytes read so far."""
        return self._counted.bytes
