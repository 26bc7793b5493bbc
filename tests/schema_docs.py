"""docs/schema.md as data: which files a run has, and the columns or keys of each with their types."""

import re
from functools import cache
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs/schema.md"
ROW = re.compile(r"\| `([^`]+)` \| ([^|]+) \| \d+\.\d+ \| (.+) \|")
TREE_LINE = re.compile(r"^(\S+) {2,}\S", re.MULTILINE)


@cache
def sections() -> dict[str, str]:
    """{file or folder that a heading of the page names: text below the heading}."""
    found = {}
    for part in re.split(r"^### ", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        name = re.match(r"`([^`]+)`", heading)
        assert name is not None, heading
        found[name[1]] = re.split(r"^## ", body, flags=re.MULTILINE)[0]
    return found


def documented(file: str) -> dict[str, str]:
    """{column or key of a file: its type}, in the order of the page."""
    return _types(sections()[file].partition("| key of ")[0])


def optional(file: str) -> set[str]:
    """Keys of a file that may be absent."""
    return {name for name, _, meaning in ROW.findall(sections()[file]) if "*optional*" in meaning}


def nested(file: str, key: str) -> list[dict[str, str]]:
    """The tables that describe the keys below `key`: {key: type} of each."""
    return [_types(table.partition("\n\n")[0]) for table in sections()[file].split(f"| key of `{key}` ")[1:]]


def tree() -> list[str]:
    """Files and folders of the tree at the top of the page."""
    return TREE_LINE.findall(DOCUMENT.read_text(encoding="utf-8").split("```")[1])


def fits(value: Any, kind: str) -> bool:
    """Whether a JSON value is of a type of the page."""
    kinds = kind.split(" or ")
    if isinstance(value, dict):
        return any(each == "object" or each.startswith("map of") for each in kinds)
    if isinstance(value, list):
        return any(each.startswith("list of") for each in kinds)
    names = {str: {"string"}, bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}}
    return bool(names.get(type(value), {"null"}) & set(kinds))


def _types(text: str) -> dict[str, str]:
    return {name: kind for name, kind, _ in ROW.findall(text)}
