"""Rows as members of a WebDataset tar."""

from __future__ import annotations

import io
import json
import tarfile
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.stages.carried.values import to_json_values
from capfilt.stages.rows import CORPUS_SCHEMA, corpus_table, with_column
from capfilt.stages.status import SUCCESS

SIGNATURE_BYTES = 12
"""First bytes of an image that `image_extension` needs."""


class Pack:
    """The part of the writer that handles each row separately.

    Adds the columns `extension` (of the image file) and `sidecar` (the row as JSON) to rows with a stored
    image; they are null in other rows.
    """

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows with two more columns."""
        starts = pc.binary_slice(batch["image"], 0, SIGNATURE_BYTES).to_pylist()
        extensions: list[str | None] = []
        sidecars: list[bytes | None] = []
        for row, start in zip(_json_rows(batch), starts, strict=True):
            has_image = row["status"] == SUCCESS and start is not None
            extensions.append(image_extension(start) if has_image else None)
            sidecar = json.dumps(row, ensure_ascii=False, default=str).encode() if has_image else None
            sidecars.append(sidecar)
        batch = with_column(batch, "extension", extensions, pa.string())
        return with_column(batch, "sidecar", sidecars, pa.large_binary())


def _json_rows(batch: pa.Table) -> list[dict[str, Any]]:
    """The rows as the corpus has them, with values that JSON can hold."""
    table = corpus_table(batch)
    rows: list[dict[str, Any]] = table.select(CORPUS_SCHEMA.names).to_pylist()
    for name in table.column_names[len(CORPUS_SCHEMA) :]:
        for row, value in zip(rows, to_json_values(table[name]), strict=True):
            row[name] = value
    return rows


def encode_tar(batch: pa.Table) -> bytes:
    """A WebDataset tar of the stored images: `<key>.jpg`, `<key>.txt`, `<key>.json`.

    Members have no time and no owner, so that equal rows give equal bytes.

    Args:
        batch: rows that `Pack` has completed.
    """
    sink = io.BytesIO()
    stored = batch.filter(pc.equal(batch["status"], SUCCESS))
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in stored.select(["key", "caption", "image", "extension", "sidecar"]).to_pylist():
            add_member(tar, f"{row['key']}.{row['extension']}", row["image"])
            add_member(tar, f"{row['key']}.txt", (row["caption"] or "").encode())
            add_member(tar, f"{row['key']}.json", row["sidecar"])
    return sink.getvalue()


def image_extension(image: bytes) -> str:
    """File extension for an image by its first bytes. Stored images are JPEG, PNG or WebP unless the config
    keeps the original bytes; "img" for unknown formats."""
    signatures = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"))
    for signature, extension in signatures:
        if image.startswith(signature):
            return extension
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return "tif" if image[:4] in (b"II*\0", b"MM\0*") else "img"


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append a file without time and owner to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
