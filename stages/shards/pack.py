"""Rows → members of a WebDataset tar: what the writer does row by row."""

from __future__ import annotations

import io
import json
import tarfile

import pyarrow as pa
import pyarrow.compute as pc

from capfilt.stages.rows import CORPUS_SCHEMA, with_column
from capfilt.stages.status import SUCCESS

SIGNATURE_BYTES = 12
"""What `image_extension` looks at."""


class Pack:
    """Gives every row with a stored image the columns `extension` and `sidecar`: its members' names and its JSON; null
    for the others."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """The same rows, two columns more."""
        starts = pc.binary_slice(batch["image"], 0, SIGNATURE_BYTES).to_pylist()
        extensions: list[str | None] = []
        sidecars: list[bytes | None] = []
        for row, start in zip(batch.select(CORPUS_SCHEMA.names).to_pylist(), starts, strict=True):
            packed = row["status"] == SUCCESS and start is not None
            extensions.append(image_extension(start) if packed else None)
            sidecars.append(json.dumps(row, ensure_ascii=False).encode() if packed else None)
        batch = with_column(batch, "extension", extensions, pa.string())
        return with_column(batch, "sidecar", sidecars, pa.large_binary())


def corpus_tar(batch: pa.Table) -> bytes:
    """The stored images of packed rows as a WebDataset tar: `<key>.jpg`, `<key>.txt`, `<key>.json`.

    Members carry no time and no owner, so equal rows give equal bytes.
    """
    sink = io.BytesIO()
    stored = batch.filter(pc.equal(batch["status"], SUCCESS))
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for row in stored.select(["key", "caption", "image", "extension", "sidecar"]).to_pylist():
            _add(tar, f"{row['key']}.{row['extension']}", row["image"])
            _add(tar, f"{row['key']}.txt", (row["caption"] or "").encode())
            _add(tar, f"{row['key']}.json", row["sidecar"])
    return sink.getvalue()


def image_extension(image: bytes) -> str:
    """File extension by the image's first bytes; stored images are JPEG, PNG or WebP unless kept as they came."""
    signatures = ((b"\xff\xd8\xff", "jpg"), (b"\x89PNG", "png"), (b"GIF8", "gif"), (b"BM", "bmp"))
    for signature, extension in signatures:
        if image.startswith(signature):
            return extension
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    if image[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return "tif" if image[:4] in (b"II*\0", b"MM\0*") else "img"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
