"""NEW FILE."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.images.decode import DecodeConfig

IMG2DATASET_DOES = (
    "backend", "base_url", "image", "optout", "concurrency", "connect_timeout_s", "retries", "allow_private",
    "robots", "per_host_per_second",
)  # fmt: skip
"""Settings that backend img2dataset follows, or that are checked apart."""


@dataclass(frozen=True, kw_only=True)
class FetchConfig(DownloadConfig):
    """Where images come from, how the web is asked, which pictures are taken and how they are stored."""

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    backend: Literal["capfilt", "img2dataset"] = "capfilt"
    """Who asks for urls and scales pictures. `img2dataset`: its downloader and resizer, for those who want exactly
    its pictures. It follows a name or a redirect into private address space (the guard sees only what stands in the
    url), knows no robots.txt, deadline or byte cap, and turns no photograph upright; see docs/fetching.md. It needs
    `robots: false` and `per_host_per_second: null`, so that nobody believes otherwise. Files and pictures that come
    with tars are read by capfilt in any case."""
    base_url: str | None = None
    """Web address that relative urls are joined to."""
    image_root: str | None = None
    """Folder (local or any fsspec URL) that relative urls are paths in: images beside an annotation file. Symbolic
    links in it are followed; a path that leaves it is refused."""
    storage_options: dict[str, Any] = field(default_factory=dict)
    """fsspec options for `image_root` (endpoint, profile, anonymous access)."""
    decode_threads: Annotated[int, Ge(1), Le(256)] = 2
    """Pictures decoded at once in one worker; decoding releases Python's lock, so threads use cores."""
    image: DecodeConfig = field(default_factory=DecodeConfig)
    """Limits and stored size of pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.base_url is not None and self.image_root is not None:
            raise ValueError(
                "base_url and image_root are both given; a relative url can belong to one: remove one"
            )
        if self.base_url is not None and not self.base_url.lower().startswith(("http://", "https://")):
            raise ValueError(f"base_url {self.base_url!r}: an address that starts with http:// or https://")

        if self.backend == "img2dataset":
            self._check_img2dataset()

    def _check_img2dataset(self) -> None:
        """Nothing is set that img2dataset would not do.

        Raises:
            ValueError: the first such setting.
        """
        for name in ("robots", "per_host_per_second"):
            if getattr(self, name):
                off = "false" if name == "robots" else "null"
                raise ValueError(
                    f"backend img2dataset knows no {name}: set {name}: {off} to say so, or use capfilt"
                )
        given = [
            (item, getattr(self, item.name)) for item in fields(self) if item.name not in IMG2DATASET_DOES
        ]
        for item, value in given:
            usual = item.default_factory() if item.default_factory is not MISSING else item.default
            if value != usual:
                raise ValueError(
                    f"backend img2dataset has no {item.name}: leave {item.name} out, or use capfilt"
                )
        if self.image.resize == "original" or self.image.background.lower() != DecodeConfig.background:
            raise ValueError(
                "backend img2dataset stores every picture anew, on white: "
                "set image.resize to shorter or longer, leave image.background out, or use capfilt"
            )

    def manners(self) -> DownloadConfig:
        """How the web is asked, without what is done with the answers: sources that agree in it can share a `Web`."""
        return DownloadConfig(**{item.name: getattr(self, item.name) for item in fields(DownloadConfig)})
