"""Config files: read, override, check. One line per mistake, with its dotted path and the way out."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from capfilt.pipeline.config.credentials import credentials_in
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.shipped import resolve_shipped, shipped_configs
from capfilt.stages.errors import UserError
from capfilt.stages.storage.store import Store


class ConfigError(UserError):
    """One or more mistakes in a config; the message has one line for each."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Config of a YAML file (a path, a shipped one's name, or any fsspec URL) with `a.b=value` overrides on top. A
    URL is opened with the overrides' own run.storage_options.

    Raises:
        ConfigError: no such file, not YAML, or values that are unknown, mistyped or out of range; a credential.
        StoreError: a store that is away.
    """
    refuse_credentials(str(path), "CONFIG")
    folder, name = os.path.split(resolve_shipped(str(path)))
    try:
        data = yaml.safe_load(Store(folder, storage_options(overrides)).read(name).decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        hint = f"shipped configs: {', '.join(shipped_configs())}"
        raise ConfigError(f"{path}: no such config file; {hint}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: a config is a mapping with keys such as run and sources, not {_kind(data)}"
        )
    for override in overrides:
        _set(data, override)
    return parse_config(data, str(path))


def refuse_credentials(address: str, name: str) -> None:
    """An address that a command is given has no credential in it; `name` opens the line that says so.

    Raises:
        ConfigError: it has one.
    """
    if found := list(credentials_in(address, name)):
        raise ConfigError("\n".join(found))


def storage_options(overrides: Sequence[str]) -> dict[str, Any]:
    """run.storage_options as overrides have them: all that is known before the config itself can be opened.

    Raises:
        ConfigError: they are no mapping.
    """
    data: dict[str, Any] = {}
    for override in overrides:
        _set(data, override)
    section = data.get("run")
    options = section.get("storage_options") if isinstance(section, dict) else None
    if options is not None and not isinstance(options, dict):
        raise ConfigError(f"--set run.storage_options={options}: it is a section; set its keys, for example "
                          "--set run.storage_options.endpoint_url=https://minio.example.org")  # fmt: skip
    if found := list(credentials_in(data)):
        raise ConfigError("\n".join(f"--set {line}" for line in found))
    return options or {}


def parse_config(data: dict[str, Any], origin: str) -> Config:
    """Checked config of plain data; `origin` opens every error line."""
    if found := [f"{origin}: {line}" for line in credentials_in(data)]:
        raise ConfigError("\n".join(found))
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = [f"{origin}: {_explain(detail)}" for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def dump_config(config: Config) -> str:
    """The resolved config as YAML: every key with the value it has."""
    return yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True, width=110)


def plain(config: BaseModel) -> dict[str, Any]:
    """Resolved config as JSON-like data."""
    return config.model_dump(mode="json")


def _set(data: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override}: write it as key.path=value, for example --set run.seed=1")
    *parents, last = path.strip().split(".")
    node = data
    for name in parents:
        if node.get(name) is None:
            node[name] = {}
        node = node[name]
        if not isinstance(node, dict):
            raise ConfigError(f"--set {path}: {name} is a value, not a section")
    node[last] = yaml.safe_load(text) if text else None


def _explain(detail: ErrorDetails) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    kind, value = detail["type"], detail["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        known = _known_keys(detail["loc"][:-1])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        advice = f"did you mean {close[0]!r}?" if close else f"allowed: {', '.join(known)}"
        return f"{path}: unknown key; {advice}"
    if kind in ("missing", "missing_keyword_only_argument"):
        return f"{path}: missing; this key must be given"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[:1].lower() + message[1:]
    if kind == "value_error":
        return f"{path}: {message}" if path else message
    return f"{path}: {message}, got {value!r}"


def _known_keys(loc: Sequence[int | str]) -> list[str]:
    """Keys allowed at a place of the config tree."""
    current: Any = Config
    for part in loc:
        current = _type_of(current, str(part))
    return _keys(current)


def _keys(type_: Any) -> list[str]:
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        return list(type_.model_fields)
    return [f.name for f in fields(type_)] if is_dataclass(type_) else []


def _type_of(type_: Any, key: str) -> Any:
    """Type of the section at `key`; unions and named mappings are looked through."""
    if get_origin(type_) is dict:
        return _section_in(get_args(type_)[1])
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        field = type_.model_fields.get(key)
        return _section_in(field.annotation) if field is not None else None
    return _section_in(get_type_hints(type_).get(key)) if is_dataclass(type_) else None


def _section_in(annotation: Any) -> Any:
    if get_origin(annotation) is dict:
        return annotation
    return next((t for t in (annotation, *get_args(annotation)) if _keys(t)), None)


def _kind(value: Any) -> str:
    return "empty" if value is None else type(value).__name__
