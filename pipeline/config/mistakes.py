"""One line for every mistake in a config: which key, what is wrong, what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from itertools import groupby

from pydantic_core import ErrorDetails

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.tree import alternatives, annotation_at, section_keys, section_of, walk_sections

Path = Sequence[int | str]

TYPE_ERRORS = ("_type", "_parsing", "literal_error")
"""Ends of the names of errors that say that a value is of another kind."""


def explain_mistakes(details: Sequence[ErrorDetails]) -> Iterator[str]:
    """The lines for what pydantic has found.

    A value that none of the alternatives of its key accepts has one error for each alternative. The line
    names the alternative that it resembles; if there is none, all of them.
    """
    for place, group in groupby(details, key=lambda detail: _key_with_alternatives(detail["loc"])):
        errors = list(group)
        inside = [detail for detail in errors if len(_key_path(detail["loc"])) > len(place)]
        nearest = inside or [detail for detail in errors if not detail["type"].endswith(TYPE_ERRORS)]
        if nearest or len(errors) == 1:
            yield from map(_explain, nearest or errors)
        else:
            messages = " or ".join(dict.fromkeys(_message(detail) for detail in errors))
            yield f"{'.'.join(map(str, place))}: {messages}, got {errors[0]['input']!r}"


def _key_with_alternatives(location: Path) -> Path:
    """The part of a location up to a key that accepts values of several kinds; all of it without such a
    key."""
    for length in range(1, len(location)):
        annotation = annotation_at(location[:length])
        if annotation is None:
            break
        kinds = [kind for kind in alternatives(annotation) if kind is not type(None)]
        if len(kinds) > 1 and isinstance(location[length], str):
            return location[:length]
    return location


def _key_path(location: Path) -> Path:
    """A location without the name of the alternative that pydantic inserts after a key with several."""
    place = _key_with_alternatives(location)
    return [*place, *location[len(place) + 1 : len(place) + 2]]


def _message(detail: ErrorDetails) -> str:
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return message[:1].lower() + message[1:]


def _explain(detail: ErrorDetails) -> str:
    path = ".".join(map(str, _key_path(detail["loc"])))
    kind, value = detail["type"], detail["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{path}: unknown key; {_advise_key(detail['loc'])}"
    if kind in ("missing", "missing_keyword_only_argument"):
        return f"{path}: missing; this key must be given"
    message = _message(detail)
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message}, got {value!r}"


def _advise_key(path: Sequence[int | str]) -> str:
    """What the user may have meant by an unknown key: the key with this name in a section below, a key of the
    section with a similar name, or the only key with this name anywhere."""
    *parents, last = path
    known = _known_keys(parents)
    if below := _paths_of(str(last), parents):
        return f"did you mean {' or '.join(below[:3])}?"
    if close := difflib.get_close_matches(str(last), known, n=1):
        return f"did you mean {close[0]!r}?"
    if len(anywhere := _paths_of(str(last))) == 1:
        return f"did you mean {anywhere[0]}?"
    return f"allowed: {', '.join(known)}"


def _paths_of(name: str, parents: Sequence[int | str] = ()) -> list[str]:
    """Dotted paths of the keys and sections with a name, in the sections below a path."""
    section = section_of(annotation_at(parents)) if parents else Config
    if section is None:
        return []
    prefix = ".".join(str(part) for part in parents)
    sections = walk_sections(section, prefix)
    return [f"{path}.{name}" for path, inside in sections if path != prefix and name in section_keys(inside)]


def _known_keys(path: Sequence[int | str]) -> list[str]:
    """Keys allowed in the section at a path."""
    return section_keys(section_of(annotation_at(path)))
