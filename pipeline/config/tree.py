"""The config as a tree of sections and keys, read from the annotations of its classes.

A section is a pydantic model or a dataclass. A mapping of named sections (`sources`) adds one level to a
path, and its names are written `NAME` where no real name is given: `sources.NAME.rows.shard_size`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from capfilt.pipeline.config.schema import Config

ANY_NAME = "NAME"
"""Stands for the name of a source in a path."""


def section_keys(type_: Any) -> list[str]:
    """Keys of a section in the order of definition; empty for a type that is no section."""
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        return list(type_.model_fields)
    return [field.name for field in fields(type_)] if is_dataclass(type_) else []


def alternatives(annotation: Any) -> list[Any]:
    """Members of a union without their constraints; a list of one for a type that is no union."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [each for member in get_args(annotation) for each in alternatives(member)]
    return [annotation]


def section_of(annotation: Any) -> Any:
    """The section type that an annotation holds, possibly as an option of a union; None if it holds none."""
    return next((each for each in alternatives(annotation) if section_keys(each)), None)


def named_section_of(annotation: Any) -> Any:
    """The section type of a mapping from names to sections; None for any other annotation."""
    for each in alternatives(annotation):
        if get_origin(each) is dict:
            return section_of(get_args(each)[1])
    return None


def annotation_at(path: Sequence[int | str]) -> Any:
    """Annotation of the key or section at a path below `Config`; None where the schema has none.

    Args:
        path: keys from the root, for example ("sources", "web", "kind").
    """
    current: Any = Config
    for part in path:
        if (named := named_section_of(current)) is not None:
            current = named
        elif part in section_keys(section := section_of(current)):
            current = key_annotations(section)[str(part)]
        else:
            return None
    return current


def accepts_text(annotation: Any) -> bool:
    """Whether a key takes strings and nothing else but null and lists of strings."""
    members = [each for each in alternatives(annotation) if each is not type(None)]
    return any(_is_text(each) for each in members) and all(
        _is_text(each) or _is_list(each) for each in members
    )


def accepts_list(annotation: Any) -> bool:
    """Whether a list is one of the values that a key takes."""
    return any(_is_list(each) for each in alternatives(annotation))


def accepts_null(annotation: Any) -> bool:
    """Whether a key may be null."""
    return type(None) in alternatives(annotation)


def key_annotations(section: Any) -> dict[str, Any]:
    """Annotation of each key of a section, constraints included."""
    hints = get_type_hints(section, include_extras=True)
    return {name: hints[name] for name in section_keys(section)}


def walk_sections(section: Any = Config, path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, type) of a section and of every section below it, in the order of definition."""
    yield path, section
    for name, annotation in key_annotations(section).items():
        inner = f"{path}.{name}" if path else name
        if (named := named_section_of(annotation)) is not None:
            yield from walk_sections(named, f"{inner}.{ANY_NAME}")
        elif (below := section_of(annotation)) is not None:
            yield from walk_sections(below, inner)


def _is_text(type_: Any) -> bool:
    choices = get_args(type_) if get_origin(type_) is Literal else ()
    return type_ is str or (bool(choices) and all(isinstance(choice, str) for choice in choices))


def _is_list(type_: Any) -> bool:
    return get_origin(type_) in (list, tuple)
