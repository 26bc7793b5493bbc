"""Settings of the fetch stage: where images are, how urls are requested, which images are stored and how."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.images.decode import DecodeConfig

IMG2DATASET_SETTINGS = (
    "backend", "base_url", "image", "optout", "concurrency", "connect_timeout_s", "retries", "allow_private",
    "robots", "per_host_per_second",
)  # fmt: skip
"""Settings that backend img2dataset follows, or that have their own check; others keep their defaults."""


def is_web_folder(address: str) -> bool:
    """Whether the images of a folder are requested by the downloader, not through fsspec."""
    return address.lower().startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True)
class FetchConfig(DownloadConfig):
    """Where images are, how urls are requested, which images are stored and how."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    backend: Literal["capfilt", "img2dataset"] = "capfilt"
    """Which code downloads urls and resizes images. `img2dataset`: its own downloader and resizer, for
    exactly the images that img2dataset stores. It follows names and redirects into private address space
    (only addresses in the url itself are checked), has no robots.txt, deadline or byte limit, and ignores
    EXIF orientation; see docs/fetching.md. It requires `robots: false` and `per_host_per_second: null`, so
    that the config does not promise what the backend does not do. Files, and images in tars, are read by
    capfilt with either backend."""
    base_url: str | None = None
    """Web address to which relative urls are joined."""
    image_root: str | None = None
    """Folder (local or any fsspec URL) in which relative urls are paths: the images of an annotation file.
    Symbolic links in it are followed; a path that leaves it is rejected. A folder on the web (`http://`,
    `https://`) is downloaded like any other url, with the same limits and checks."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options for `image_root` (endpoint, profile, anonymous access)."""
    decode_threads: Annotated[int, Ge(1), Le(256)] = 2
    """Images that a worker decodes concurrently. Decoding releases the GIL, so threads use several cores."""
    image: DecodeConfig = field(default_factory=DecodeConfig)
    """Limits and stored size of images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_url is not None and self.image_root is not None:
            raise ValueError(
                "base_url and image_root are both given, but a relative url has one base: remove one"
            )
        if self.base_url is not None and not self.base_url.lower().startswith(("http://", "https://")):
            raise ValueError(
                f"base_url {self.base_url!r}: give an address that starts with http:// or https://"
            )
        if self.image_root is not None:
            _check_web_folder(self.image_root, self.storage_options)
        if self.backend == "img2dataset":
            self._check_img2dataset()

    def _check_img2dataset(self) -> None:
        """Check that no setting asks for what img2dataset does not do.

        Raises:
            ValueError: the first such setting.
        """
        for name in ("robots", "per_host_per_second"):
            if getattr(self, name):
                off = "false" if name == "robots" else "null"
                raise ValueError(
                    f"backend img2dataset does not support {name}: set {name}: {off}, or use backend capfilt"
                )
        for item in fields(self):
            if item.name in IMG2DATASET_SETTINGS:
                continue
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            if getattr(self, item.name) != default:
                raise ValueError(
                    f"backend img2dataset has no {item.name}: remove {item.name}, or use backend capfilt"
                )
        if self.image.resize == "original" or self.image.background.lower() != DecodeConfig.background:
            raise ValueError(
                "backend img2dataset re-encodes every image, on white: set image.resize to shorter or longer "
                "and remove image.background, or use backend capfilt"
            )

    def host_settings(self) -> DownloadConfig:
        """The settings of the downloads alone; stages with equal ones can share a `BackgroundDownloader`."""
        return DownloadConfig(**{item.name: getattr(self, item.name) for item in fields(DownloadConfig)})


def _check_web_folder(address: str, options: dict[str, Any]) -> None:
    """Check that no image folder on the web is read past the downloader and its checks.

    Raises:
        ValueError: fsspec would request the web itself, or options that only fsspec follows.
    """
    if is_web_folder(address):
        if options:
            raise ValueError(
                f"image_root {address!r} is requested by the downloader, which has no storage_options "
                f"({', '.join(options)}): remove them"
            )
    elif re.search(
        r"https?://", address, re.IGNORECASE
    ):  # simplecache::https://..., zip://a.zip::https://...
        raise ValueError(
            f"image_root {address!r} would be requested without the checks of the downloader: give a folder "
            "on a disk, on an object store, or an address that starts with http:// or https://"
        )
