"""Which columns of a record hold url, texts and truth, and what their values mean.

Names are matched in each record, without surrounding spaces and whatever their case. An optional field may be
absent from the first record, and ` Caption` is a caption.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from capfilt.stages.carried.fields import find_name, has_extras
from capfilt.stages.manifest.config import NO_COLUMN, ManifestError
from capfilt.stages.manifest.row import ManifestRow, make_row, to_hash, to_text

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig

URL_NAMES = ("url", "image_url", "image", "image_path", "path", "file_name", "filepath")
CAPTION_NAMES = ("caption", "captions", "text", "texts", "alt_text", "title")
TEXT_NAMES = (*CAPTION_NAMES, "raw", "value")
"""Keys of the text in a caption that is an object, such as `{"text": "a dog"}`."""

Record = dict[str, Any]
"""A row with the file's own columns."""


class Columns(NamedTuple):
    """Names of the columns in one file or record; None for a column that it lacks."""

    url: str | None
    caption: str | None
    truth: str | None


def choose_columns(names: Iterable[Any], config: ManifestConfig) -> Columns:
    """The columns that the config names, else the first of the usual names."""
    by_name: dict[str, str] = {}
    for name in names:
        if isinstance(name, str):  # the csv module files surplus fields under None
            by_name.setdefault(name, name)
            by_name.setdefault(fold(name), name)
    given = (config.url_column, config.caption_column, config.truth_column)
    chosen = []
    for name, usual in zip(given, (URL_NAMES, CAPTION_NAMES, ()), strict=True):
        candidates = usual if name is None else () if is_no_column(name) else (name, fold(name))
        chosen.append(next((by_name[each] for each in candidates if each in by_name), None))
    return Columns(*chosen)


def fold(name: str) -> str:
    """A column name as it is compared."""
    return name.strip().casefold()


def is_no_column(name: str | None) -> bool:
    """Whether a key says that there is no such column, on purpose."""
    return name is not None and fold(name) == NO_COLUMN


def texts_of(value: Any) -> list[Any]:
    """The texts of a caption value: a text, an object with a text, or a list of these."""
    values = value if isinstance(value, list) else [value]
    return [_text_in(each) if isinstance(each, dict) else each for each in values]


def _text_in(value: Mapping[Any, Any]) -> Any:
    folded = {fold(key): each for key, each in value.items() if isinstance(key, str)}
    return next((folded[name] for name in TEXT_NAMES if isinstance(folded.get(name), (str, bytes))), None)


@dataclass
class ColumnReader:
    """Makes rows of records, and remembers which columns there were."""

    config: ManifestConfig
    carried: tuple[str, ...] = ()
    """Columns that are carried; their values in Parquet files are not read otherwise."""
    seen: dict[str, None] = field(default_factory=dict)
    """Names of all columns, in their order."""
    found: Columns = field(default_factory=lambda: Columns(None, None, None))
    """The columns that any record had."""
    has_numbers: bool = False
    """Whether a caption was a number, which is no text."""
    _chosen: dict[tuple[Any, ...], Columns] = field(default_factory=dict)
    _has_extras: bool = False

    def __post_init__(self) -> None:
        self._has_extras = has_extras(self.config)

    def columns(self, record: Record) -> Columns:
        """The columns of one record."""
        names = tuple(record)
        columns = self._chosen.get(names)
        if columns is None:
            if len(self._chosen) >= 1000:  # records whose keys are data
                self._chosen.clear()
            columns = self._chosen[names] = choose_columns(names, self.config)
            if len(self.seen) < 1000:
                self.seen.update((str(name).strip(), None) for name in names if name is not None)
            self.found = Columns(*(old or new for old, new in zip(self.found, columns, strict=True)))
        return columns

    def row(self, record: Record) -> ManifestRow:
        """A record as a row."""
        url, caption, truth = self.columns(record)
        texts = texts_of(record[caption]) if caption is not None else []
        row = make_row(
            record[url] if url is not None else None,
            texts,
            record[truth] if truth is not None else None,
        )
        if texts and not row["texts"] and not self.has_numbers:
            # A missing value is NaN where pandas has written it; NaN differs from itself.
            self.has_numbers = any(isinstance(each, (int, float)) and each == each for each in texts)
        if self._has_extras:
            row.update(read_extras(record, self.config))  # type: ignore[typeddict-item]
            row["carried"] = record
        return row


def read_extras(record: Mapping[str, Any], config: ManifestConfig) -> dict[str, Any]:
    """The promised hash and the captions from elsewhere of a record, where the config asks for them."""
    names = [name for name in record if isinstance(name, str)]
    found: dict[str, Any] = {}
    if config.hash_column is not None:
        column = find_name(names, config.hash_column)
        found["expected_hash"] = to_hash(record[column]) if column is not None else None
    if config.synthetic_columns:
        found["synthetic"] = captions = []
        for captioner, name in config.synthetic_columns.items():
            column = find_name(names, name)
            for text in map(to_text, texts_of(record[column]) if column is not None else []):
                if text is not None:
                    captions.append({"captioner": captioner, "text": text})
    return found


def check_columns(
    columns: Columns, names: Sequence[str], config: ManifestConfig, place: tuple[str, str]
) -> None:
    """Check that a file has the columns that are required: a url, and those that the config names.

    Args:
        columns: the columns that its first records have.
        names: all columns of these records.
        place: (dotted path of the manifest section, name of the file), for messages.

    Raises:
        ManifestError: a column is missing.
    """
    section, file = place
    for key, column, usual in zip(("url", "caption", "truth"), columns, (URL_NAMES, (), ()), strict=True):
        given = getattr(config, f"{key}_column")
        is_left_out = key != "url" and is_no_column(given)
        if column is not None or is_left_out or (given is None and not usual):
            continue
        wanted = " or ".join(usual) if given is None else given
        raise ManifestError(
            f"{section}.{key}_column: no column {wanted!r} in {file}; it has {describe_names(names)}; "
            + _remedy(section, key, names, config)
        )


def describe_names(names: Sequence[str]) -> str:
    """Column names for a message, the first of them if there are many."""
    shown = [repr(name[:40]) if len(name) > 40 or not name.isprintable() else name for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def check_texts(reader: ColumnReader, rows: Iterable[ManifestRow], place: tuple[str, str]) -> None:
    """Check that a file has a column of texts, unless the config says that the source has none.

    Args:
        rows: the first rows, as `reader` has read them.
        place: as in `check_columns`.

    Raises:
        ManifestError: there is no such column, or it has numbers instead.
    """
    section, file = place
    if is_no_column(reader.config.caption_column) or not reader.seen:  # annotations have no columns
        return
    column = reader.found.caption
    has_numbers = reader.has_numbers and not any(row["texts"] for row in rows)
    if column is not None and not has_numbers:
        return
    lack = "no column of texts" if column is None else f"column {column!r} has numbers, which are no texts,"
    raise ManifestError(
        f"{section}.caption_column: {lack} in {file}; it has {describe_names(list(reader.seen))}; set "
        f"{section}.caption_column to one of them, or to none if the source has no texts"
    )


def describe_lack(rows: int, names: Sequence[str], source: str) -> str:
    """A line for the user: none of the rows of a source has a text."""
    columns = f"its columns are {describe_names(names)}" if names else "its files have no texts"
    return (
        f"{source}: none of {rows:,} rows has a text; {columns}; set {source}.rows.caption_column, or set it "
        "to none if that is meant"
    )


def _remedy(section: str, key: str, names: Sequence[str], config: ManifestConfig) -> str:
    looks_like_a_row = any("://" in name for name in names)
    if looks_like_a_row and not config.columns:
        return f"its first line looks like a row, no header: set {section}.columns, e.g. [caption, url]"
    return f"set {section}.{key}_column"
