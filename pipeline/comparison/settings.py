"""Differences between two configs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_LENGTH = 80
"""Characters of a value that are shown."""
NOT_COMPARED = ("run.dir", "run.name")
"""Keys that only say which run it is."""


@dataclass(frozen=True)
class Setting:
    """A key of the configs with different values."""

    key: str
    """Dotted path."""
    a: str
    """Value in A as JSON, shortened; "–" if A has no such key."""
    b: str


_ABSENT = object()


def compare_settings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Setting]:
    """The keys whose values differ, in the order of A.

    Args:
        a, b: resolved configs as JSON-like data. A section that only one of them has is one key.
    """
    found = _differences(a, b, "")
    return [Setting(key, _shown(x), _shown(y)) for key, x, y in found if key not in NOT_COMPARED]


def _differences(a: Any, b: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys([*a, *b]):
            below = f"{path}.{key}" if path else str(key)
            yield from _differences(a.get(key, _ABSENT), b.get(key, _ABSENT), below)
    elif a != b:
        yield path, a, b


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "–"
    text = value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 1] + "…"
