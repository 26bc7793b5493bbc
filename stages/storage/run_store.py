"""The files of a run directory, under the names of this version also where an earlier version has made it."""

from __future__ import annotations

from typing import Any

from capfilt.stages.storage.layout import has_older_layout, older_place
from capfilt.stages.storage.store import Store


class RunStore(Store):
    """A run directory, or a folder in it.

    A run of an earlier version is continued in its own layout: names are those of `stages.storage.layout`,
    and the files are where that version looks for them. Which layout it is takes one listing of the run
    directory, on first use; processes that receive the object then need none.

    Args:
        folder: of the run directory; names are relative to it.
    """

    def __init__(self, url: str, options: dict[str, Any] | None = None, folder: str = "") -> None:
        super().__init__(url, options)
        self.folder = folder
        self._is_older: bool | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"folder": self.folder, "_is_older": self._is_older}

    def __repr__(self) -> str:
        return f"RunStore({self.address('')!r})"

    def __truediv__(self, folder: str) -> RunStore:
        part = RunStore(self.url, self.options, f"{self.folder}/{folder}".strip("/"))
        part._is_older = self._is_older
        return part

    @property
    def is_older(self) -> bool:
        """Whether an earlier version has made the run directory."""
        if self._is_older is None:
            self._is_older = has_older_layout(Store(self.url, self.options).list())
        return self._is_older

    def place(self, name: str) -> str:
        """Where the file or folder `name` is, relative to the run directory."""
        full = f"{self.folder}/{name}".strip("/")
        # Most names are the same in both layouts; these need no listing.
        return older_place(full) if older_place(full) != full and self.is_older else full
