"""One row of a manifest, the cleaning of its values, and the table of many."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import pyarrow as pa

from capfilt.stages.rows import OPTIONAL_SCHEMA

if TYPE_CHECKING:
    from capfilt.stages.manifest.config import ManifestConfig

INDEX_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("truth", pa.string()),
        ("tar", pa.string()),
        ("image_file", pa.string()),
        ("image_column", pa.string()),
        ("image_row", pa.int64()),
    ]
)
"""A shard is either rows with `url`, `texts` and `truth`, or one row with the address of an image tar. Rows
whose image is embedded in a Parquet file say where it is; earlier versions do not have these columns."""


class ManifestRow(TypedDict):
    """An image with its texts; values that a manifest lacks, or that are not text, are None or left out."""

    url: str | None
    texts: list[str]
    truth: str | None
    """What is really wrong with the text, in manifests with planted noise."""
    image_file: NotRequired[str]
    """Address of the Parquet file that holds the image, with its column and row."""
    image_column: NotRequired[str]
    image_row: NotRequired[int]
    expected_hash: NotRequired[str | None]
    """The promised hash of the image's bytes, hex."""
    synthetic: NotRequired[list[dict[str, str]]]
    """Captions that somebody else has written: {"captioner", "text"}."""
    carried: NotRequired[Any]
    """Where the carried values are: the record, or (batch of a Parquet file, row)."""


def rows_table(rows: Sequence[ManifestRow] | Sequence[dict[str, Any]], config: ManifestConfig) -> pa.Table:
    """Rows as a table: `INDEX_SCHEMA`, then the columns that only some configs ask for, without those that
    are carried."""
    given = {"expected_hash": config.hash_column is not None, "synthetic": bool(config.synthetic_columns)}
    schema = pa.schema([*INDEX_SCHEMA, *(field for field in OPTIONAL_SCHEMA if given[field.name])])
    return pa.Table.from_pylist(rows, schema=schema)


def make_row(url: Any, texts: Iterable[Any], truth: Any = None) -> ManifestRow:
    """A row of any values, those that are not text left out."""
    return {
        "url": to_text(url),
        "texts": [text for text in map(to_text, texts) if text is not None],
        "truth": None if truth is None else to_text(truth) or str(truth),
    }


def to_text(value: Any) -> str | None:
    """`value` as text that can be encoded as UTF-8, None if it is neither str nor bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if not isinstance(value, str):
        return None
    # A JSON escape can be half a surrogate pair, which cannot be encoded.
    return value if value.isascii() else value.encode("utf-8", "replace").decode("utf-8")


def to_hash(value: Any) -> str | None:
    """A promised hash as it is compared: hex digits in lower case, also of the 16 or 32 bytes themselves.
    None for no hash; other text is kept, and fits no image."""
    if isinstance(value, bytes):
        is_hex = value.isascii() and value.decode("ascii", "replace").isalnum()
        value = value.decode("utf-8", "replace") if is_hex or len(value) not in (16, 32) else value.hex()
    if not isinstance(value, str):
        return None
    return value.strip().lower() or None
