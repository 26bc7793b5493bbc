"""Write docs/config.md and docs/cli.md from the sources: `python docs/generate.py [FOLDER]`.

Types, defaults and limits come from the config's annotations, descriptions from the string below each key;
commands come from the functions registered in `pipeline.cli.app`. Needs neither Ray nor torch.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from itertools import chain, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the checkout's own package, installed or not

import annotated_types as at  # noqa: E402
import yaml  # noqa: E402
from pydantic import BaseModel  # noqa: E402
from pydantic.fields import FieldInfo  # noqa: E402

from capfilt.pipeline.cli.app import FAMILIES  # noqa: E402
from capfilt.pipeline.cli.options import global_options  # noqa: E402
from capfilt.pipeline.config.tree import (  # noqa: E402
    ANY_NAME,
    alternatives,
    key_annotations,
    named_section_of,
    section_keys,
    section_of,
    walk_sections,
)

NOTICE = "<!-- Written by docs/generate.py; do not edit. -->"
REQUIRED = object()

CONFIG_INTRO = f"""\
# Config keys

{NOTICE}

A config is a YAML file of nested sections. `--set pretrain.optimizer.lr=1e-4` overrides a single key: a key
of type *text* takes everything after the `=` unchanged, any other key reads it as YAML. Unknown keys, wrong
types and values outside the limits are errors. `capfilt check FILE --full` prints the config with all
defaults.

`{ANY_NAME}` stands for the name of a source.
"""
CLI_INTRO = f"""\
# Command line

{NOTICE}

`capfilt [OPTIONS] COMMAND`, or `python -m pipeline` in a checkout. Results and progress are printed on
stdout, errors and log lines on stderr.

| Exit code | Meaning |
|---|---|
| 0 | Everything is done. |
| 1 | A node failed, `verify` found a difference, or `retry` could not take a shard. |
| 2 | A mistake in config, input or usage. |
| 130, 143, 129 | Interrupted by SIGINT, SIGTERM or SIGHUP; shards in flight were finished first. |
"""
FRAMEWORK_OPTIONS = [
    ("`--install-completion`", "", "", "Install completion for the current shell."),
    ("`--show-completion`", "", "", "Print the completion script of the current shell."),
    ("`--help`", "", "", "Print the help page and exit; also after a command."),
]


def main(folder: Path) -> None:
    """Write both pages into a folder."""
    (folder / "config.md").write_text(config_page(), encoding="utf-8")
    (folder / "cli.md").write_text(cli_page(), encoding="utf-8")


def config_page() -> str:
    """docs/config.md."""
    places: dict[Any, list[str]] = {}
    for path, section in walk_sections():
        places.setdefault(section, []).append(path)
    titles = {section: section_title(paths) for section, paths in places.items()}
    parts = [CONFIG_INTRO]
    for section, title in titles.items():
        about = inspect.cleandoc(section.__doc__ or "")
        rows = [key_row(section, name, titles) for name in section_keys(section)]
        parts.append(f"## {title}\n\n{about}\n\n{table(('Key', 'Value', 'Default', 'Description'), rows)}")
    return "\n".join(parts)


def section_title(paths: Sequence[str]) -> str:
    """Heading of a section: its paths, the shortest first."""
    ordered = sorted(paths, key=lambda path: path.count("."))
    return ", ".join(f"`{path}`" for path in ordered) if ordered != [""] else "Top level"


def key_row(section: Any, name: str, titles: dict[Any, str]) -> tuple[str, str, str, str]:
    """Table row of a key."""
    annotation, default = key_annotations(section)[name], default_of(section, name)
    below = named_section_of(annotation) or section_of(annotation)
    if below is not None:
        anchor = re.sub(r"[^\w -]", "", titles[below].lower()).replace(" ", "-")
        what = "sections by name" if named_section_of(annotation) is not None else "section"
        value = f"[{what}](#{anchor})" + (", or null" if type(None) in alternatives(annotation) else "")
    else:
        value = describe_type(annotation, limits_of(section, name))
    if default is REQUIRED:
        shown = "*required*"
    elif below is not None:
        shown = "`null`" if default is None else ""
    else:
        shown = f"`{inline_yaml(default)}`"
    return f"`{name}`", value, shown, attribute_docs(section).get(name, "")


def default_of(section: Any, name: str) -> Any:
    """Default of a key; `REQUIRED` if it has none."""
    if issubclass(section, BaseModel):
        field = section.model_fields[name]
        return REQUIRED if field.is_required() else field.get_default(call_default_factory=True)
    field = next(each for each in fields(section) if each.name == name)
    if field.default_factory is not MISSING:
        return field.default_factory()
    return REQUIRED if field.default is MISSING else field.default


def limits_of(section: Any, name: str) -> list[Any]:
    """Constraints that a pydantic field has beside its annotation: `dir: str = Field(min_length=1)`."""
    return list(section.model_fields[name].metadata) if issubclass(section, BaseModel) else []


def describe_type(annotation: Any, limits: Sequence[Any] = ()) -> str:
    """What a key takes, in words: `integer ≥ 1, or null`."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        nested = [each.metadata if isinstance(each, FieldInfo) else [each] for each in more]
        return describe_type(inner, limits or list(chain(*nested)))
    members = get_args(annotation) if len(alternatives(annotation)) > 1 else ()
    if members and get_origin(annotation) is not tuple and get_origin(annotation) is not Literal:
        words = [describe_type(each) for each in members if each is not type(None)]
        return " or ".join(words) + (", or null" if type(None) in members else "")
    return describe_plain_type(annotation) + describe_limits(limits)


def describe_plain_type(type_: Any) -> str:
    """A type that is no union, without limits."""
    arguments = get_args(type_)
    if get_origin(type_) is Literal:
        return ", ".join(f"`{choice}`" for choice in arguments)
    if get_origin(type_) is tuple and arguments[-1] is Ellipsis:
        return f"list of {describe_type(arguments[0])}"
    if get_origin(type_) is tuple:
        return f"list of {len(arguments)}: {describe_type(arguments[0])}"
    if get_origin(type_) in (dict, Mapping):
        return "mapping"
    return {str: "text", int: "integer", float: "number", bool: "`true`, `false`"}[type_]


def describe_limits(limits: Sequence[Any]) -> str:
    """Constraints in the notation of mathematics."""
    signs = {at.Ge: "≥", at.Gt: ">", at.Le: "≤", at.Lt: "<"}
    words = [
        f"{signs[type(limit)]} {getattr(limit, type(limit).__name__.lower()):,}"
        for limit in limits
        if type(limit) in signs
    ]
    text = f" {', '.join(words)}" if words else ""
    return text + (", not empty" if any(isinstance(limit, at.MinLen) for limit in limits) else "")


def inline_yaml(value: Any) -> str:
    """A value as it is written in a config."""
    plain = list(value) if isinstance(value, tuple) else value
    return (
        yaml.safe_dump(plain, default_flow_style=True, width=10**6).removesuffix("\n").removesuffix("\n...")
    )


def attribute_docs(section: Any) -> dict[str, str]:
    """The string below each key of a section and of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(inspect.getmro(section)):
        if base.__module__.startswith("capfilt."):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0].body
            for key, text in pairwise(body):
                if isinstance(key, ast.AnnAssign) and isinstance(text, ast.Expr):
                    docs[key.target.id] = " ".join(text.value.value.split())
    return docs


def cli_page() -> str:
    """docs/cli.md."""
    options = [row for _, row in parameter_rows(global_options)]
    names = ("Option", "Value", "Default", "Description")
    parts = [CLI_INTRO, f"## Options before the command\n\n{table(names, [*options, *FRAMEWORK_OPTIONS])}"]
    for family, commands in FAMILIES.items():
        parts.append(f"## {family}\n")
        parts += [command_section(command) for command in commands]
    return "\n".join(parts)


def command_section(command: Callable[..., None]) -> str:
    """Usage, description and parameters of a command."""
    rows = list(parameter_rows(command))
    arguments = " ".join(row[0].strip("`") for is_option, row in rows if not is_option)
    usage = f"capfilt {command.__name__} [OPTIONS] {arguments}".strip()
    about = inspect.cleandoc(command.__doc__ or "")
    names = ("Argument or option", "Value", "Default", "Description")
    return f"### `{usage}`\n\n{about}\n\n{table(names, [row for _, row in rows])}"


def parameter_rows(command: Callable[..., None]) -> Iterator[tuple[bool, tuple[str, str, str, str]]]:
    """(whether it is an option, table row) of every parameter of a command."""
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in inspect.signature(command).parameters.items():
        if get_origin(hints[name]) is not Annotated:
            continue  # the context
        type_, info = get_args(hints[name])
        is_option = type(info).__name__ == "OptionInfo"
        label = f"`--{name.replace('_', '-')}`" if is_option else f"`{info.metavar}`"
        given = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
        if given:  # in an annotation, the first name is where typer expects a default
            label = ", ".join(f"`{each}`" for each in given)
        required = parameter.default is inspect.Parameter.empty
        shown = "*required*" if required else "" if not parameter.default else f"`{parameter.default}`"
        choices = next((each for each in alternatives(type_) if get_origin(each) is Literal), None)
        value = (
            describe_type(choices) if choices else f"`{info.metavar}`" if is_option and info.metavar else ""
        )
        variable = f" Environment variable: `{info.envvar}`." if info.envvar else ""
        yield is_option, (label, value, shown, f"{info.help}{variable}")


def table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [names, ["---"] * len(names), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs")
