"""Which keys of a config differ from their defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from capfilt.pipeline.config.load import to_json_data
from capfilt.pipeline.config.schema import Config

_REQUIRED = object()
"""Stands for the default of a key that must be given."""


def changed_keys(config: Config) -> dict[str, Any]:
    """The keys whose value is not the default, nested as in the config; what this returns makes an equal
    config."""
    return _changed(config, to_json_data(config), None)


def _changed(section: Any, data: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """Changed keys of a section.

    Args:
        data: the section as JSON-like data.
        default: the section that is used where the config has none; None if there is no such section, so
            that the defaults of the keys count.
    """
    found: dict[str, Any] = {}
    for name, own_default in _defaults(section):
        expected = own_default if default is None else getattr(default, name)
        value = getattr(section, name)
        if value == expected:
            continue
        if _is_section(value):
            same_type = type(expected) is type(value)
            found[name] = _changed(value, data[name], expected if same_type else None)
        elif isinstance(value, dict) and any(map(_is_section, value.values())):
            found[name] = {key: _changed(each, data[name][key], None) for key, each in value.items()}
        else:
            found[name] = data[name]
    return found


def _is_section(value: Any) -> bool:
    return isinstance(value, BaseModel) or (is_dataclass(value) and not isinstance(value, type))


def _defaults(section: Any) -> Iterator[tuple[str, Any]]:
    """(key, default) of a section in the order of its definition."""
    if isinstance(section, BaseModel):
        for name, info in type(section).model_fields.items():
            default = info.get_default(call_default_factory=True)
            yield name, _REQUIRED if default is PydanticUndefined else default
        return
    for item in fields(section):
        if item.default is not MISSING:
            yield item.name, item.default
        else:
            yield item.name, _REQUIRED if item.default_factory is MISSING else item.default_factory()
