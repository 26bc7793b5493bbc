"""Samples of existing image tars (WebDataset, img2dataset or DataComp layout), also of damaged ones."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from capfilt.stages.carried.fields import find_name, has_extras
from capfilt.stages.manifest.columns import choose_columns, fold, is_no_column, read_extras, texts_of
from capfilt.stages.manifest.config import EXTRA_KEYS, ManifestConfig
from capfilt.stages.shards.members import IMAGE_SUFFIXES, Limits, Sample, read_text, split_samples
from capfilt.stages.status import BAD_TAR, one_line
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.s3_errors import describe_error
from capfilt.stages.storage.store import StoreError

SAMPLE_TYPE = pa.struct(
    [
        ("place", pa.string()),
        ("text", pa.large_binary()),
        ("meta", pa.large_binary()),
        ("url_column", pa.string()),
        ("caption_column", pa.string()),
        ("truth_column", pa.string()),
        ("extras", pa.string()),
    ]
)
"""A sample besides its image: the address of the tar with the sample's name, the undecoded members with its
text and its JSON, null if absent, and the columns that the config names; `extras` has the keys of
`stages.manifest.config.EXTRA_KEYS` as JSON, null where none is set."""
TEXT_KINDS = ("txt", "text", "caption")
"""Endings of members with a text."""
MAX_BYTES = 20_000_000
"""Bytes of a member, unless the config has another limit."""


def read_tar_images(data: bytes) -> dict[str, bytes]:
    """{key: encoded image} of a WebDataset tar."""
    images = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isfile() and path.suffix.lower() in IMAGE_SUFFIXES:
                key = path.name.split(".", 1)[0]
                images[key] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return images


def iter_samples(
    address: str, manifest: ManifestConfig | None = None, max_bytes: int = MAX_BYTES
) -> Iterator[dict[str, Any]]:
    """Samples of an image tar in their order, sidecars not parsed, with fields of
    `stages.shards.read.PACKED_SCHEMA`.

    A damaged tar gives the samples before the damage, then one row with status `bad_tar` for everything that
    is lost.

    Args:
        address: path or URL of the tar.
        manifest: the columns to read, and the fsspec options of the tar.
        max_bytes: bytes of a member; a sample with a larger one gets the status `too_big`.

    Raises:
        StoreError: the tar cannot be read completely.
    """
    config = manifest or ManifestConfig()
    for _, row in read_samples(address, config, max_bytes):
        yield row


def read_samples(
    address: str, config: ManifestConfig, max_bytes: int, head_bytes: int | None = None
) -> Iterator[tuple[Sample, dict[str, Any]]]:
    """Each sample of a tar with its row, as in `iter_samples`.

    Args:
        head_bytes: only this much of the file is read, and what is cut off is not reported; None for all.
    """
    kinds = text_kinds(config)
    keys = {key: getattr(config, key) for key in EXTRA_KEYS}
    extras = json.dumps(keys) if has_extras(config) else None
    limits = Limits(max_bytes, frozenset((*kinds, "json")))
    data = _read_file(address, config.storage_options, head_bytes)
    samples, damage = split_samples(data, limits)
    for sample in samples:
        place = f"{address}#{sample.name.lstrip('/')}"
        if sample.problem is not None:
            status, problem = sample.problem
            yield sample, {"url": place, "texts": [], "status": status, "error_message": one_line(problem)}
            continue
        packed = {
            "place": place,
            "text": read_text(sample.members, kinds),
            "meta": sample.members.get("json"),
            "url_column": config.url_column,
            "caption_column": config.caption_column,
            "truth_column": config.truth_column,
            "extras": extras,
        }
        lack = None if sample.image is not None else _describe_lack(sample)
        yield sample, {"image": sample.image, "error_message": lack, "sample": packed}
    if damage is not None and (head_bytes is None or len(data) < head_bytes):
        message = one_line(f"after {len(samples)} samples: {damage}")
        row = {"url": address, "texts": [], "status": BAD_TAR, "error_message": message}
        yield Sample(address), row


def parse_sidecars(sample: Mapping[str, Any]) -> dict[str, Any]:
    """`url`, `texts` and `truth` of a sample (`SAMPLE_TYPE`).

    The url is that of its JSON, else the place of the sample. The text is that of its text member, else its
    JSON has the texts; where the config names a caption column, this key of the JSON comes first.
    """
    meta, given = parse_object(sample["meta"]), sample["caption_column"]
    columns = choose_columns(meta, _sidecar_columns(sample["url_column"], given, sample["truth_column"]))
    url = meta[columns.url] if columns.url else None
    truth = meta[columns.truth] if columns.truth else None
    in_meta = texts_of(meta[columns.caption]) if columns.caption else []
    in_meta = [text for text in in_meta if isinstance(text, str)]
    data = sample["text"]
    text = data.decode("utf-8-sig", "replace").strip() if data is not None else None
    has_priority = text and (given is None or not in_meta)
    return {
        "url": url if isinstance(url, str) else sample["place"],
        "texts": [text] if text is not None and (has_priority or not in_meta) else in_meta,
        "truth": None if truth is None else str(truth),
    }


def read_sidecar_extras(
    sample: Mapping[str, Any], fields: Sequence[pa.Field]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What else the config asks for of the JSON of a sample (`SAMPLE_TYPE`).

    Args:
        fields: the carried columns, by their names in the run.

    Returns:
        `expected_hash` and `synthetic`, where the config asks for them, and the values of the carried columns
        by their names in the run, of whatever type they are.
    """
    if sample["extras"] is None:
        return {}, {}
    config, meta = _extra_columns(sample["extras"]), parse_object(sample["meta"])
    columns = {new: old for old, new in config.rename_columns.items()}
    values = {}
    for field in fields:
        column = find_name(list(meta), columns.get(field.name, field.name))
        values[field.name] = None if column is None else meta[column]
    return read_extras(meta, config), values


@lru_cache
def _extra_columns(extras: str) -> ManifestConfig:
    return ManifestConfig(**json.loads(extras))


@lru_cache
def _sidecar_columns(url: str | None, caption: str | None, truth: str | None) -> ManifestConfig:
    return ManifestConfig(url_column=url or "url", caption_column=caption, truth_column=truth)


def text_kinds(config: ManifestConfig) -> tuple[str, ...]:
    """Endings of the members that can hold the text."""
    if config.caption_column is None:
        return TEXT_KINDS
    return () if is_no_column(config.caption_column) else (fold(config.caption_column).lstrip("."),)


def _describe_lack(sample: Sample) -> str:
    seen = ", ".join(sample.endings[:8]) + (" ..." if len(sample.endings) > 8 else "")
    return one_line(
        f"the sample has no image member: its members end in {seen}; endings of images are "
        f"{', '.join(IMAGE_SUFFIXES)}"
    )


def _read_file(address: str, options: Mapping[str, Any] | None, head_bytes: int | None) -> bytes:
    """The whole file, or its beginning. An incomplete read says nothing about the tar: the next one may be
    complete."""
    try:
        fs, path = open_filesystem(address, options)
        size = fs.info(path)["size"]
        if head_bytes is None:
            data = bytes(fs.cat_file(path))
        else:
            data = bytes(fs.cat_file(path, start=0, end=head_bytes))
            size = None if size is None else min(size, head_bytes)
    except Exception as error:  # any library's
        raise StoreError(f"{address}: cannot read it ({describe_error(error)})") from error
    if size is not None and len(data) != size:
        raise StoreError(f"{address}: cannot read it ({len(data)} of {size} bytes received)")
    return data


def parse_object(data: bytes | None) -> dict[str, Any]:
    """A JSON object; {} for anything else, because the image and text of the sample can still be used."""
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # for example a thousand opening brackets
        return {}
    return value if isinstance(value, dict) else {}
