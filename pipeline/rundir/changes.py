"""What has changed since a node was made or begun, in words that name files and config keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

MAX_LENGTH = 60
"""Characters of a value that a message shows."""
_IDENTITY = re.compile(r"(.+) \(sha256 [0-9a-f]+\)")
"""Start weights and tokenizers in fingerprints (`pipeline.rundir.start_weights.start_identity`)."""

Given = Mapping[str, Mapping[str, Any]]
"""{"captioner" | "filter": {"address": …, "files": [{"name", "bytes", "sha256"}]}}, as node records hold the
checkpoints that the config gives."""


def describe_change(
    before: Mapping[str, Any], now: Mapping[str, Any], given_before: Given, given_now: Given
) -> str:
    """The first difference between what a node was made of and what it would be made of now.

    Args:
        before, now: inputs of the node (`pipeline.rundir.fingerprints.Fingerprints.inputs`), as JSON gives
            them.
        given_before, given_now: the given checkpoints; empty where an earlier version began the node.

    Returns:
        The end of a sentence that begins with "was made with".
    """
    path, old, new = difference(before, now)
    section, _, role = path.partition(".")
    if section == "checkpoints" and isinstance(old, str) and isinstance(new, str):
        role = role.removesuffix("_tokenizer")
        if path.endswith("_tokenizer"):
            path = f"{role}.tokenizer"
        else:
            return _describe_checkpoint(f"{role}.checkpoint", given_before.get(role), given_now.get(role))
    if section in ("checkpoints", "model") or path.endswith("tokenizer"):
        names = [_IDENTITY.fullmatch(value) for value in (old, new) if isinstance(value, str)]
        if len(names) == 2 and names[0] and names[1] and names[0][1] == names[1][1]:
            return f"another content of {path} = {names[0][1]}"
    if path.endswith("fetch.blocked"):
        return f"other block lists than {path} names now"
    return f"{path} = {_short(old)}, the config now says {_short(new)}"


def _describe_checkpoint(key: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    address = now["address"] if now is not None else "its address"
    if before is None or now is None:
        return f"another content of {key} than there is now at {address}"
    place = "" if before["address"] == now["address"] else f" at {before['address']}"
    old, new = ({file["name"]: file for file in given["files"]} for given in (before, now))
    changes = [_describe_file(name, old.get(name), new.get(name)) for name in sorted({*old, *new})]
    return (
        f"another content of {key}{place} than there is now at {address} ({', '.join(filter(None, changes))})"
    )


def _describe_file(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str | None:
    """What has changed in a file; None if nothing has."""
    shown = name or "the file"  # a checkpoint of one file: its address is the path
    if old is None:
        return f"{shown} was added"
    if new is None:
        return f"{shown} was removed"
    if old["bytes"] != new["bytes"]:
        return f"{shown} had {old['bytes']:,} bytes and has {new['bytes']:,}"
    return f"{shown} has other content of the same size" if old["sha256"] != new["sha256"] else None


def difference(before: Any, now: Any, path: str = "") -> tuple[str, Any, Any]:
    """Dotted path and both values of the first difference between two JSON values.

    Config keys come before `upstream`, whose hashes say nothing to the user.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now), key=lambda k: (k == "upstream", k))
        for key in keys:
            if before.get(key) != now.get(key):
                return difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    return path, before, now


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3] + "..."
