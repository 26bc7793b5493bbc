"""The log of a training."""

import json

from capfilt.stages.storage.store import Store


def read_steps(folder: Store) -> list[dict[str, float]]:
    """All rows of a training's log, ordered by step."""
    files = folder.list(suffix=".jsonl")
    return [json.loads(line) for name in files for line in folder.read(name).decode().splitlines()]
