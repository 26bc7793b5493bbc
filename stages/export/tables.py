"""Exported shards as tables: Parquet, Parquet with images for `datasets`, DataComp's uids, BLIP's JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urljoin

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.export.tars import encode_object, sample_name
from capfilt.stages.shards.pack import image_extension

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""How `datasets` stores a feature of type Image."""
IMAGES_PER_GROUP = 100
"""Rows of a row group with images: the viewer of the Hugging Face hub reads whole row groups."""
UID_SCHEMA = pa.schema([("high", pa.uint64()), ("low", pa.uint64())])
"""A uid of DataComp, 32 hex digits, as two numbers."""


def encode_images(images: pa.Table, stored: Mapping[str, bytes]) -> bytes:
    """A Parquet file with a feature of type Image and one row per image.

    Args:
        images: see `stages.export.read.group_by_image`.
        stored: {key: encoded image}, written unchanged.
    """
    names = zip(images["source"].to_pylist(), images["key"].to_pylist(), strict=True)
    values = [
        {"bytes": stored[key], "path": f"{sample_name(source, key)}.{image_extension(stored[key])}"}
        for source, key in names
    ]
    table = images.add_column(0, pa.field("image", IMAGE_TYPE), pa.array(values, IMAGE_TYPE))
    features = {field.name: feature(field.type) for field in table.schema}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    sink = io.BytesIO()
    table = table.replace_schema_metadata(metadata)
    pq.write_table(table, sink, compression="zstd", row_group_size=IMAGES_PER_GROUP)
    return sink.getvalue()


def feature(type_: pa.DataType) -> Any:
    """The feature of `datasets` for a type, in the form that Parquet metadata have."""
    if type_ == IMAGE_TYPE:
        return {"_type": "Image"}
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return {"feature": feature(type_.value_type), "_type": "Sequence"}
    if pa.types.is_struct(type_):
        return {field.name: feature(field.type) for field in type_}
    names = {"float": "float32", "double": "float64", "halffloat": "float16"}
    return {"dtype": names.get(str(type_), str(type_)), "_type": "Value"}


def uid_halves(uid: str) -> tuple[int, int]:
    """The two numbers of a uid of 32 hex digits."""
    return int(uid[:16], 16), int(uid[16:32], 16)


def uids_table(uids: list[str]) -> pa.Table:
    """Uids as numbers (`UID_SCHEMA`)."""
    halves = [uid_halves(uid) for uid in uids]
    arrays = [pa.array([each[i] for each in halves], pa.uint64()) for i in (0, 1)]
    return pa.Table.from_arrays(arrays, schema=UID_SCHEMA)


def encode_blip(pairs: pa.Table, places: Mapping[str, str]) -> bytes:
    """A list of {"url", "caption"} as BLIP published it, or of {"image", "caption"} as its trainer reads it
    where the address of the image is a path.

    Args:
        places: {source: folder or web address to which its relative urls are joined}.
    """
    rows = pairs.select(["source", "url", "text"]).to_pylist()
    items = []
    for row in rows:
        address = join_place(places.get(row["source"]), row["url"])
        items.append({"url" if is_web(address) else "image": address, "caption": row["text"]})
    lines = b",\n".join(encode_object(item) for item in items)
    return b"[\n" + lines + b"\n]\n" if items else b"[]\n"


def join_place(place: str | None, url: str) -> str:
    """The address of an image: its url, joined to the place of its source if it is relative."""
    if place is None or "://" in url or url.startswith("/"):
        return url
    return urljoin(place, url) if is_web(place) else f"{place.rstrip('/')}/{url}"


def is_web(address: str) -> bool:
    """Whether an address is a web address."""
    return address.lower().startswith(("http://", "https://"))
