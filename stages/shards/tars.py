"""NEW FILE."""

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
from capfilt.stages.storage.s3_errors import reason
from capfilt.stages.storage.store import StoreError

SAMPLE = pa.struct([("place", pa.string()), ("text", pa.large_binary()), ("meta", pa.large_binary())])
"""What a tar says of a sample besides its image: where it is, its text and its json, as bytes; null where it has none."""


IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")


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


def parse_sidecars(sample: Mapping[str, Any]) -> dict[str, Any]:
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
