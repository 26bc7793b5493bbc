"""Samples of existing image tars (WebDataset, img2dataset or DataComp layout), also of damaged ones."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from capfilt.stages.status import BAD_TAR, one_line
from capfilt.stages.storage.filesystems import open_filesystem
from capfilt.stages.storage.s3_errors import describe_error
from capfilt.stages.storage.store import StoreError

SAMPLE_TYPE = pa.struct([("place", pa.string()), ("text", pa.large_binary()), ("meta", pa.large_binary())])
"""A sample besides its image: the address of the tar with the sample's name, and the undecoded .txt and .json
members, null if absent."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
"""Suffixes of image members; of a sample with several images the first one in this order is read."""


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


def iter_samples(address: str, options: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """Samples of an image tar in their order, sidecars not parsed, with fields of
    `stages.shards.read.PACKED_SCHEMA`.

    A damaged tar gives the samples before the damage, then one row with status `bad_tar` for everything that
    is lost.

    Args:
        address: path or URL of the tar.
        options: fsspec storage options.

    Raises:
        StoreError: the tar cannot be read completely.
    """
    samples, damage = _split_samples(_read_file(address, options))
    for name, members in samples.items():
        image = next((members[suffix] for suffix in IMAGE_SUFFIXES if suffix in members), None)
        yield {
            "image": image,
            "error_message": None if image is not None else "the sample has no image member",
            "sample": {
                "place": f"{address}#{name.lstrip('/')}",
                "text": members.get(".txt"),
                "meta": members.get(".json"),
            },
        }
    if damage is not None:
        message = one_line(f"after {len(samples)} samples: {damage}")
        yield {"url": address, "texts": [], "status": BAD_TAR, "error_message": message}


def parse_sidecars(sample: Mapping[str, Any]) -> dict[str, Any]:
    """`url` and `texts` of a sample (`SAMPLE_TYPE`): the url from its json, else the place of the sample; the
    text from its txt, else the caption in its json."""
    meta = _parse_object(sample["meta"])
    data = sample["text"]
    text = data.decode("utf-8", "replace").strip() if data is not None else meta.get("caption")
    url = meta.get("url")
    return {
        "url": url if isinstance(url, str) else sample["place"],
        "texts": [text] if isinstance(text, str) else [],
    }


def _read_file(address: str, options: Mapping[str, Any] | None) -> bytes:
    """The whole file. An incomplete read says nothing about the tar: the next one may be complete."""
    try:
        fs, path = open_filesystem(address, options)
        size = fs.info(path)["size"]
        data = bytes(fs.cat_file(path))
    except Exception as error:  # any library's
        raise StoreError(f"{address}: cannot read it ({describe_error(error)})") from error
    if size is not None and len(data) != size:
        raise StoreError(f"{address}: cannot read it ({len(data)} of {size} bytes received)")
    return data


def _split_samples(data: bytes) -> tuple[dict[str, dict[str, bytes]], str | None]:
    """{sample: {suffix: content}} of a tar up to the first damage, and what the damage is (None without)."""
    samples: dict[str, dict[str, bytes]] = {}
    current: str | None = None
    """The sample whose member is being read."""
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                if member.size < 0:  # tarfile would go back and read the same headers for ever
                    raise tarfile.ReadError(f"a member of {member.size} bytes")
                if member.isfile():
                    folder, _, file = member.name.rpartition("/")
                    base, _, extension = file.partition(".")
                    current = f"{folder}/{base}"
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    samples.setdefault(current, {})[f".{extension.lower()}"] = content
                    current = None
            _check_end(tar)
        if not samples:
            raise tarfile.ReadError("the tar has no files")
    except MemoryError:
        raise
    except Exception as error:  # parsers raise nearly anything on damaged bytes (gzip: OSError, EOFError)
        samples.pop(current or _find_incomplete(samples), None)
        return samples, f"{type(error).__name__}: {error}"
    return samples, None


def _check_end(tar: tarfile.TarFile) -> None:
    """Check for the end mark: tarfile takes anything but a header for the end, even half a header or nothing.

    Raises:
        tarfile.ReadError: the block at which tarfile stopped is not the end mark.
    """
    stream = tar.fileobj
    assert stream is not None, "the tar is open"
    stream.seek(tar.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"neither a member nor the end mark at byte {tar.offset}")


def _find_incomplete(samples: Mapping[str, Mapping[str, bytes]]) -> str:
    """Name of the last sample if it lacks members that the sample before it has; else ""."""
    names = list(samples)
    if len(names) > 1 and set(samples[names[-1]]) < set(samples[names[-2]]):
        return names[-1]
    return ""


def _parse_object(data: bytes | None) -> dict[str, Any]:
    """A JSON object; {} for anything else, because the image and text of the sample can still be used."""
    if data is None:
        return {}
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # for example a thousand opening brackets
        return {}
    return value if isinstance(value, dict) else {}
