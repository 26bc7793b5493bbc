"""The marker file of a corpus: its presence says that the corpus is complete, its content how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def check_same_config(root: Path, kind: str, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Check that the corpus in a folder was made with the expected config.

    Args:
        root: folder of the corpus.
        kind: name of the corpus, for the message.
        found: config in the marker file.
        expected: config of the corpus that is to be made.

    Raises:
        ValueError: the configs differ; the message lists the differences.
    """
    changed = [
        f"{key} {found.get(key)!r} -> {value!r}" for key, value in expected.items() if found.get(key) != value
    ]
    if changed:
        raise ValueError(
            f"{root} holds a {kind} corpus of another config ({', '.join(changed)}): "
            "give another folder, or remove this one"
        )


def read_marker(file: Path) -> dict[str, Any]:
    """Content of a marker file.

    Raises:
        ValueError: it is damaged; the message is one line.
    """
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged, so nothing says how this corpus was made: remove {file.parent}")
    return content
