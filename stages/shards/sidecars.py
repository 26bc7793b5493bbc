"""What the first samples of an image tar have beside their images, to tell a user why there are no texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from capfilt.stages.manifest.columns import CAPTION_NAMES, describe_names, fold, is_no_column, texts_of
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import Index
from capfilt.stages.shards.tars import MAX_BYTES, parse_object, parse_sidecars, read_samples, text_kinds
from capfilt.stages.storage.layout import INDEX_PARTS
from capfilt.stages.storage.store import Store

HEAD_BYTES = 1 << 26
"""Only samples in this much of a tar are looked at."""


@dataclass(frozen=True)
class Sidecars:
    """What the samples in the first part of a tar have."""

    address: str
    rows: Sequence[Mapping[str, Any]]
    """`url` and `texts` of each sample, and its `status` if it cannot be read."""
    endings: Sequence[str]
    """Endings of all members, in their order."""
    keys: Sequence[str]
    """Keys of all JSON members."""
    number_keys: Sequence[str]
    """Keys whose name is that of a caption, and whose values are numbers."""

    @property
    def lacks_texts(self) -> bool:
        """Whether there are samples, and none has a text."""
        return bool(self.rows) and not any(row["texts"] for row in self.rows)

    def describe(self) -> str:
        """The members and keys that there are, in one line."""
        found = f"the members of {self.address} end in {', '.join(self.endings[:20]) or 'nothing'}"
        if self.keys:
            found += f"; its JSON has the keys {describe_names(self.keys)}"
        if self.number_keys:
            found += f", of which {describe_names(self.number_keys)} has numbers, which are no texts"
        return found


def read_sidecars(address: str, manifest: ManifestConfig, max_bytes: int = MAX_BYTES) -> Sidecars:
    """Look at the samples in the first `HEAD_BYTES` of a tar.

    Args:
        address: path or URL of the tar.
        manifest: the columns to read, and the fsspec options of the tar.
        max_bytes: bytes of a member.

    Raises:
        StoreError: the tar cannot be read.
    """
    rows: list[Mapping[str, Any]] = []
    endings: dict[str, None] = {}
    keys: dict[str, None] = {}
    numbers: dict[str, None] = {}
    wanted = manifest.caption_column
    names = CAPTION_NAMES if wanted is None or is_no_column(wanted) else (fold(wanted),)
    for sample, row in read_samples(address, manifest, max_bytes, HEAD_BYTES):
        rows.append(parse_sidecars(row["sample"]) if "sample" in row else row)
        endings.update(dict.fromkeys(sample.endings))
        meta = parse_object(sample.members.get("json"))
        keys.update(dict.fromkeys(meta))
        numbers.update((key, None) for key in meta if fold(key) in names and _is_number(meta[key]))
    return Sidecars(address, rows, tuple(endings), tuple(keys), tuple(numbers))


def find_first_tar(index_dir: Store, index: Index) -> str | None:
    """Address of the first image tar of a manifest; None if it has none.

    Args:
        index_dir: the folder of the manifest's index.
        index: its content.
    """
    for part in index.parts if index.has_tars else ():
        with index_dir.fs.open(index_dir.path(f"{INDEX_PARTS}/{part.name}"), "rb") as stream:
            for tar in pq.read_table(stream, columns=["tar"])["tar"].drop_null().to_pylist():
                return str(tar)
    return None


def describe_lack(sidecars: Sidecars, manifest: ManifestConfig, section: str) -> str:
    """What the tar has instead of texts, and which key helps, in one line.

    Args:
        section: dotted path of the config section of the manifest.
    """
    kinds = ", ".join(f".{kind}" for kind in text_kinds(manifest)) or "no member"
    return (
        f"{sidecars.describe()}; texts are read from members that end in {kinds}, and from the JSON; set "
        f"{section}.caption_column to a key of the JSON or the ending of a text member, or to none if the "
        "source has no texts"
    )


def _is_number(value: Any) -> bool:
    values = texts_of(value)
    return bool(values) and all(isinstance(each, (int, float)) for each in values)
