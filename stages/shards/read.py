"""One slice of a manifest, or one shard of the corpus, as rows. The only stage that makes rows."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.stages.manifest.index import read_slice
from capfilt.stages.rows import CORPUS_SCHEMA, ROW_SCHEMA, row_key, table_of, with_column
from capfilt.stages.status import BAD_TAR, PENDING, one_line
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.s3_errors import reason
from capfilt.stages.storage.store import Store, StoreError

STOP_FILE = "lease/stop"
"""In the run directory: while it is there, no further shard is read."""

SAMPLE = pa.struct([("place", pa.string()), ("text", pa.large_binary()), ("meta", pa.large_binary())])
"""What a tar says of a sample besides its image: where it is, its text and its json, as bytes; null where it has none."""

PACKED_SCHEMA = ROW_SCHEMA.append(pa.field("sample", SAMPLE))
"""Rows before anything in them was read; `sample` is null for those that come from no tar."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """Where the run lives."""

    run: Store
    """The run directory."""
    tar_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """fsspec options for the image tars of each source: those of its manifest."""
    images: bool = True
    """Read the image bytes of corpus shards too; without them only the rows come."""


class Read:
    """Turns {"source", "shard"} into the rows of that shard.

    A shard whose corpus record stands is read from the corpus: its images were fetched once and for ever. Any
    other comes from the manifest's index, its rows `pending`. What is done row by row is `Unpack`; what comes before it,
    `shardwise`, looks into none.
    """

    def __init__(self, config: ReadConfig) -> None:
        self.config = config

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One row {"source", "shard"} in, the rows of that shard (`ROW_SCHEMA`) out; none once the run is to stop."""
        return Unpack()(self.shardwise(batch))

    def shardwise(self, batch: pa.Table) -> pa.Table:
        """As the call, but the rows are still packed (`PACKED_SCHEMA`)."""
        if self.config.run.get(STOP_FILE) is not None:
            return table_of([], PACKED_SCHEMA)
        tables = [self.read(item["source"], item["shard"]) for item in batch.to_pylist()]
        return tables[0] if len(tables) == 1 else pa.concat_tables(tables)

    def read(self, source: str, shard: int) -> pa.Table:
        """Packed rows of one shard."""
        corpus = self.config.run / f"corpus/{source}"
        if corpus.get(f"{shard:06d}.json") is not None:
            rows = read_corpus_shard(corpus, shard, images=self.config.images)
            nothing = pa.nulls(rows.num_rows, SAMPLE)
            return rows.append_column("sample", nothing)
        index = read_slice(corpus / "index", shard).to_pylist()
        if index[0]["tar"] is not None:
            packed = list(tar_samples(index[0]["tar"], self.config.tar_options.get(source)))
        else:
            packed = [{"url": r["url"], "texts": r["texts"], "truth": r["truth"]} for r in index]
        for number, row in enumerate(packed):
            row.update(key=row_key(shard, number), source=source, shard=shard)
            row.setdefault("status", PENDING)
        return table_of(packed, PACKED_SCHEMA)


class Unpack:
    """Rows as the reader found them → rows: url and texts of a tar's samples out of their sidecars, and the caption."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """As many rows (`ROW_SCHEMA`)."""
        rows = batch.select(["status", "url", "texts", "sample", "caption"]).to_pylist()
        for row in rows:
            if row["status"] != PENDING:
                continue
            if row["sample"] is not None:
                row.update(unpacked(row["sample"]))
            row["caption"] = row["texts"][0] if row["texts"] else None
        for name in ("url", "texts", "caption"):
            batch = with_column(batch, name, [row[name] for row in rows], ROW_SCHEMA.field(name).type)
        return batch.select(ROW_SCHEMA.names)


def read_corpus_shard(corpus: Store, shard: int, *, images: bool = True) -> pa.Table:
    """Rows of a committed corpus shard, with image bytes where the fetch succeeded (schema `ROW_SCHEMA`).

    Raises:
        ValueError: the tar lacks an image that the Parquet lists as stored.
    """
    name = f"{shard:06d}"
    rows = pq.read_table(io.BytesIO(corpus.read(f"{name}.parquet")), schema=CORPUS_SCHEMA)
    stored: dict[str, bytes] = {}
    if images:
        with suppress(FileNotFoundError):  # told below, with the first image that is lacking
            stored = read_tar_images(corpus.read(f"{name}.tar"))
    values = []
    for key, status in zip(rows["key"].to_pylist(), rows["status"].to_pylist(), strict=True):
        if images and status == "success" and key not in stored:
            raise ValueError(
                f"{corpus.address(name)}.tar has no image {key} that {name}.parquet lists; "
                "the shard is damaged: remove its record and run again"
            )
        values.append(stored.get(key))
    return rows.append_column(ROW_SCHEMA.field("image"), pa.array(values, type=pa.large_binary()))


def read_tar_images(data: bytes) -> dict[str, bytes]:
    """{key: encoded image} of a WebDataset tar held in memory."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if member.isfile() and path.suffix.lower() in IMAGE_SUFFIXES:
                found[path.name.split(".", 1)[0]] = tar.extractfile(member).read()  # type: ignore[union-attr]
    return found


def tar_samples(address: str, options: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Samples of an image tar that exists already (WebDataset, img2dataset or DataComp layout), in their order, their
    sidecars unread: fields of `PACKED_SCHEMA`.

    An image that came with the tar is stored as it is after the same checks as a downloaded one. Of a tar that is
    damaged the samples before the break come, and one row with status `bad_tar` for all that is lost.

    Raises:
        StoreError: the tar cannot be had, or not all of it came.
    """
    samples, damage = _samples(_tar_bytes(address, options))
    for name, parts in samples.items():
        image = next((parts[s] for s in IMAGE_SUFFIXES if s in parts), None)
        yield {
            "image": image,
            "error_message": None if image is not None else "the sample has no image member",
            "sample": {
                "place": f"{address}#{name.lstrip('/')}",
                "text": parts.get(".txt"),
                "meta": parts.get(".json"),
            },
        }
    if damage is not None:
        message = one_line(f"after {len(samples)} samples: {damage}")
        yield {"url": address, "texts": [], "status": BAD_TAR, "error_message": message}


def _tar_bytes(address: str, options: Mapping[str, Any] | None) -> bytes:
    """The whole file; what comes short of it may come whole another time, and is no damage of the tar."""
    try:
        fs, path = open_filesystem(address, options)
        size = fs.info(path)["size"]
        data = bytes(fs.cat_file(path))
    except Exception as error:  # any library's
        raise StoreError(f"{address}: cannot read it ({reason(error)})") from error
    if size is not None and len(data) != size:
        raise StoreError(f"{address}: cannot read it ({len(data)} of {size} bytes came)")
    return data


def _samples(data: bytes) -> tuple[dict[str, dict[str, bytes]], str | None]:
    """{sample: {ending: content}} of a tar up to where it breaks, and what is wrong with it; None if nothing is."""
    samples: dict[str, dict[str, bytes]] = {}
    torn: str | None = None
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if member.size < 0:  # Python's reader would go back, and round in circles
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                if member.isfile():
                    folder, _, file = member.name.rpartition("/")
                    base, _, extension = file.partition(".")
                    torn = f"{folder}/{base}"
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    samples.setdefault(torn, {})[f".{extension.lower()}"] = content
                    torn = None
            _check_end(tar)
        if not samples:
            raise tarfile.ReadError("there are no files in it")
    except MemoryError:
        raise
    except Exception as error:  # its parsers raise nearly anything on damaged bytes (gzip: OSError, EOFError)
        samples.pop(torn or _unfinished(samples), None)
        return samples, f"{type(error).__name__}: {error}"
    return samples, None


def _check_end(tar: tarfile.TarFile) -> None:
    """Python's reader takes anything but a header for the end, also half a header and no bytes at all.

    Raises:
        tarfile.ReadError: the block that ended it is not the end mark.
    """
    stream = tar.fileobj
    assert stream is not None, "the tar is open"
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a member nor the end mark at byte {tar.offset}")


def _unfinished(samples: Mapping[str, Mapping[str, bytes]]) -> str:
    """The last sample if it lacks members that the one before it has, so that the rest of it is lost; else ""."""
    names = list(samples)
    if len(names) > 1 and set(samples[names[-1]]) < set(samples[names[-2]]):
        return names[-1]
    return ""


def unpacked(sample: Mapping[str, Any]) -> dict[str, Any]:
    """`url` and `texts` of a sample; the url comes from its json where there is one."""
    meta = _json_object(sample["meta"])
    raw = sample["text"]
    text = raw.decode("utf-8", "replace").strip() if raw is not None else meta.get("caption")
    url = meta.get("url")
    return {
        "url": url if isinstance(url, str) else sample["place"],
        "texts": [text] if isinstance(text, str) else [],
    }


def _json_object(data: bytes | None) -> dict[str, Any]:
    """A sidecar that is no JSON object tells nothing, and the sample's image and text still count."""
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # a thousand opening brackets
        return {}
    return value if isinstance(value, dict) else {}
