"""Load config files: read, apply overrides, check.

Every mistake is one line with its dotted path, the value, and how to fix it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from capfilt.pipeline.config.credentials import find_credentials
from capfilt.pipeline.config.former_keys import move_former_keys
from capfilt.pipeline.config.mistakes import explain_mistakes
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.shipped import resolve_shipped, shipped_configs
from capfilt.pipeline.config.tree import accepts_list, accepts_null, accepts_text, annotation_at
from capfilt.stages.errors import UserError
from capfilt.stages.storage.store import Store

NULL_TEXTS = ("", "~", "null", "Null", "NULL")
"""What YAML reads as null."""


class ConfigError(UserError):
    """One or more mistakes in a config; the message has one line for each."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read the config of a YAML file and apply overrides.

    Args:
        path: a local path, the name of a shipped config, or any fsspec URL. A URL is opened with the
            `run.storage_options` among the overrides.
        overrides: `a.b=value` each, as given to `--set`. A key of type string takes the text unchanged; the
            value of any other key is read as YAML.

    Raises:
        ConfigError: the file does not exist or is not YAML; a key is unknown; a value has the wrong type, is
            out of range or contains a credential.
        StoreError: the store of a URL cannot be reached.
    """
    refuse_credentials(str(path), "CONFIG")
    folder, name = os.path.split(resolve_shipped(str(path)))
    options = storage_options_in(overrides)
    try:
        data = _read_yaml(Store(folder, options).read(name).decode())
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        hint = f"shipped configs: {', '.join(shipped_configs())}"
        raise ConfigError(f"{path}: no such config file; {hint}") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot read it ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(data, dict):
        kind = "empty" if data is None else type(data).__name__
        raise ConfigError(f"{path}: a config is a mapping with keys such as run and sources, not {kind}")
    try:
        data = move_former_keys(data)  # before the overrides, which may set the present keys
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
    for override in overrides:
        apply_override(data, override)
    return parse_config(data, str(path))


def refuse_credentials(address: str, name: str) -> None:
    """Check that an address given on the command line contains no credential.

    Args:
        name: of the argument; the error line starts with it.

    Raises:
        ConfigError: the address contains one.
    """
    if found := list(find_credentials(address, name)):
        raise ConfigError("\n".join(found))


def storage_options_in(overrides: Sequence[str]) -> dict[str, Any]:
    """`run.storage_options` of the overrides: all that is known before the config itself can be opened.

    Raises:
        ConfigError: `run.storage_options` is not a mapping, or an override contains a credential.
    """
    data: dict[str, Any] = {}
    for override in overrides:
        apply_override(data, override)
    section = data.get("run")
    options = section.get("storage_options") if isinstance(section, dict) else None
    if options is not None and not isinstance(options, dict):
        raise ConfigError(
            "--set run.storage_options: this is a section; set its keys, for example "
            "--set run.storage_options.endpoint_url=https://minio.example.org"
        )
    if found := list(find_credentials(data)):
        raise ConfigError("\n".join(f"--set {line}" for line in found))
    return options or {}


def parse_config(data: dict[str, Any], origin: str) -> Config:
    """Check the data of a config.

    Args:
        data: nested dicts, as YAML gives them.
        origin: where the data is from; every error line starts with it.

    Raises:
        ConfigError: one line for every mistake.
    """
    if found := [f"{origin}: {line}" for line in find_credentials(data)]:
        raise ConfigError("\n".join(found))
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        lines = [f"{origin}: {line}" for line in explain_mistakes(error.errors(include_url=False))]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from error


def dump_config(config: Config) -> str:
    """The resolved config as YAML: every key with its value."""
    return yaml.safe_dump(to_json_data(config), sort_keys=False, allow_unicode=True, width=110)


def to_json_data(config: BaseModel) -> dict[str, Any]:
    """A config or a section as JSON-like data, defaults included."""
    return config.model_dump(mode="json")


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set one key of a config's data in place.

    Args:
        override: `a.b=value`. A key of type string takes the text unchanged, also where YAML would read a
            comment, a number or a boolean; if the key may be null, `null`, `~` or nothing means null. The
            value of any other key is read as YAML, and so is text in brackets where a key takes a list of
            strings.

    Raises:
        ConfigError: the override is not `key.path=value`, its value is not YAML, or a parent key has a plain
            value.
    """
    path, equals, text = override.partition("=")
    if not equals or not path:
        written = " ".join(override.split())
        raise ConfigError(f"--set {written}: write it as key.path=value, for example --set run.seed=1")
    *parents, last = keys = " ".join(path.split()).split(".")
    section = data
    for name in parents:
        if section.get(name) is None:
            section[name] = {}
        section = section[name]
        if not isinstance(section, dict):
            raise ConfigError(f"--set {'.'.join(keys)}: {name} is a value, not a section")
    section[last] = _parse_value(keys, text)


def _read_yaml(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        yaml.YAMLError: it is not YAML, or has a value that is not what its form says, such as the date
            2024-13-45. For these PyYAML raises ValueError, AttributeError and others.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise
    except Exception as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}") from error


def _parse_value(keys: Sequence[str], text: str) -> Any:
    annotation = annotation_at(keys)
    if accepts_null(annotation) and text in NULL_TEXTS:
        return None
    is_list = accepts_list(annotation) and text.lstrip().startswith("[")
    if accepts_text(annotation) and not is_list:
        return text
    try:
        return _read_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {'.'.join(keys)}: the value is not YAML; quote what is text") from error
