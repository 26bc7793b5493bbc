"""Which columns of a manifest are carried, what they are called in a run, and of which type they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from capfilt.stages.errors import UserError
from capfilt.stages.rows import CANDIDATE_SCHEMA, CARRIED, CORPUS_SCHEMA, OPTIONAL_SCHEMA

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig

ALL = "all"
"""Value of `keep_columns` for every column."""
OWN_NAMES = frozenset(
    name.casefold() for name in (*CORPUS_SCHEMA.names, *OPTIONAL_SCHEMA.names, *CANDIDATE_SCHEMA.names)
)
"""Columns of the corpus and of the candidates. Case does not count, because it does not in DuckDB."""
SHOWN = 20
"""Column names in a message."""


class ColumnsError(UserError):
    """A key of `rows` asks for columns that cannot be carried; the message names them and what to do."""


@dataclass(frozen=True)
class CarriedField:
    """A column that is carried."""

    column: str
    """Its name in the manifest."""
    name: str
    """Its name in the run."""
    type: pa.DataType


@dataclass(frozen=True)
class Choice:
    """What becomes of the columns of a manifest."""

    fields: tuple[CarriedField, ...] = ()
    left: tuple[str, ...] = ()
    """Columns that are neither carried nor used."""

    @property
    def type(self) -> pa.DataType | None:
        """Type of the struct column that holds the carried values; None if nothing is carried."""
        return pa.struct([(f.name, f.type) for f in self.fields]) if self.fields else None


def carries(config: ManifestConfig) -> bool:
    """Whether a manifest section asks for columns to be carried."""
    return bool(config.keep_columns) or config.id_column is not None


def has_extras(config: ManifestConfig) -> bool:
    """Whether a manifest section asks for more of each row than url, texts and truth."""
    others = (config.hash_column, config.synthetic_columns, config.rename_columns, config.column_types)
    return carries(config) or any(others)


def output_name(config: ManifestConfig, column: str) -> str:
    """Name that a column of the manifest has in the run."""
    return config.rename_columns.get(column, column)


def find_name(names: Sequence[str], wanted: str) -> str | None:
    """The column that the user means: the one with this name, else one that differs in case or spaces."""
    if wanted in names:
        return wanted
    folded = wanted.strip().casefold()
    return next((name for name in names if name.strip().casefold() == folded), None)


def choose_fields(
    types: Mapping[str, pa.DataType], used: Mapping[str, str], config: ManifestConfig, section: str
) -> Choice:
    """Decide which columns are carried.

    Args:
        types: the columns of the manifest's files in their order, with their types.
        used: columns that the run reads itself, with what they are: `url`, `caption`, `truth`, `hash`,
            `synthetic text`.
        config: the manifest section.
        section: its dotted path, for messages.

    Raises:
        ColumnsError: a column is missing, is read as something else, or has a name or a type that cannot be
            used.
    """
    names = list(types)
    wanted = list(dict.fromkeys(_wanted(types, used, config, section)))
    unknown = [name for name in config.rename_columns if find_name(wanted, name) is None]
    if unknown:
        raise ColumnsError(
            f"{section}.rename_columns: {unknown[0]!r} is not carried; "
            f"{_not_carried(names, unknown[0])}, or remove it from rename_columns"
        )
    renamed = {find_name(wanted, old): new for old, new in config.rename_columns.items()}
    declared = _declared_types(wanted, config, section)
    fields = tuple(CarriedField(n, renamed.get(n, n), declared.get(n, types[n])) for n in wanted)
    _check_names(fields, used, section)
    taken = {*wanted, *used}
    return Choice(fields, tuple(name for name in names if name not in taken))


def _wanted(
    types: Mapping[str, pa.DataType], used: Mapping[str, str], config: ManifestConfig, section: str
) -> Iterator[str]:
    """Names of the columns that the config asks for, in the order of the manifest for `all`."""
    names = list(types)
    if config.keep_columns == ALL:
        renamed = {find_name(names, old) for old in config.rename_columns}
        yield from (
            name for name in names if (name not in used and not is_heavy(types[name])) or name in renamed
        )
    else:
        given = config.keep_columns
        for name in [given] if isinstance(given, str) else given:
            found = _existing(names, name, f"{section}.keep_columns")
            if found in used and is_heavy(types[found]):
                raise ColumnsError(
                    f"{section}.keep_columns: {found!r} holds the images, which the run stores anyway; "
                    "leave it out"
                )
            yield found
    if config.id_column is not None:
        yield _existing(names, config.id_column, f"{section}.id_column")


def _existing(names: Sequence[str], name: str, key: str) -> str:
    found = find_name(names, name)
    if found is None:
        raise ColumnsError(f"{key}: no column {name!r}; the manifest has {describe(names)}")
    return found


def _not_carried(names: Sequence[str], name: str) -> str:
    return "add it to keep_columns" if find_name(names, name) else f"the manifest has {describe(names)}"


def describe(names: Sequence[str]) -> str:
    """Column names for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "no columns") + more


def _declared_types(wanted: Sequence[str], config: ManifestConfig, section: str) -> dict[str, pa.DataType]:
    declared = {}
    for name, alias in config.column_types.items():
        column = find_name(wanted, name)
        if column is None:
            raise ColumnsError(
                f"{section}.column_types: {name!r} is not carried; carried are {describe(wanted)}"
            )
        declared[column] = parse_type(alias, f"{section}.column_types.{name}")
    return declared


def parse_type(alias: str, key: str) -> pa.DataType:
    """The Arrow type that a user has written.

    Raises:
        ColumnsError: there is no such type.
    """
    try:
        return pa.type_for_alias(alias)
    except ValueError as error:
        raise ColumnsError(
            f"{key}: {alias!r} is no type; allowed: string, bool, int8 to int64, uint8 to uint64, float32, "
            "float64, date32, timestamp[s], timestamp[ms], timestamp[us], timestamp[ns]"
        ) from error


def _check_names(fields: Sequence[CarriedField], used: Mapping[str, str], section: str) -> None:
    """Check that the names are free in corpus and candidates.

    Raises:
        ColumnsError: they are not; the message has the line that the user can add.
    """
    clashing = [field for field in fields if field.name.casefold() in {*OWN_NAMES, CARRIED}]
    if clashing:
        read = [f"{f.column} (read as the {used[f.column]})" for f in clashing if f.column in used]
        hint = f"; leave out {', '.join(read)}, which comes out in capfilt's own columns" if read else ""
        prefix = section.split(".")[1] if section.count(".") > 1 else "my"
        advice = ", ".join(f"{field.column}: {prefix}_{field.column}" for field in clashing)
        names = ", ".join(field.name for field in clashing)
        raise ColumnsError(
            f"{section}.keep_columns: {names}: capfilt has columns of these names (case does not count); add "
            f"rename_columns: {{{advice}}} to {section}, or list in keep_columns only others{hint}"
        )
    seen: dict[str, CarriedField] = {}
    for field in fields:
        other = seen.setdefault(field.name.casefold(), field)
        if other is not field:
            raise ColumnsError(
                f"{section}.rename_columns: {other.column!r} and {field.column!r} would both be called "
                f"{field.name!r} (case does not count); rename one of them"
            )


def is_heavy(type_: pa.DataType) -> bool:
    """Whether a column holds bytes, such as images, which `all` leaves behind."""
    if pa.types.is_binary(type_) or pa.types.is_large_binary(type_) or pa.types.is_binary_view(type_):
        return True
    return any(is_heavy(type_.field(i).type) for i in range(type_.num_fields))
