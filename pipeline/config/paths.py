"""The paths on a disk that a config names, and whether every process would find the same file there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from capfilt.cluster.config import is_ray_job
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.sections import NO_CAPTIONER
from capfilt.pipeline.config.shipped import SHIPPED_ROOT
from capfilt.stages.fetch.config import FetchConfig

SHARED_PLACES = "a file system that all nodes share, or an object store (s3://, gs://)"


@dataclass(frozen=True)
class NamedPath:
    """A path that a config names."""

    key: str
    """Dotted path of the config key."""
    path: str
    """As the config has it; a shipped file by its place."""

    @property
    def is_absolute(self) -> bool:
        """Whether the path does not depend on the working directory; `~` is the home of each node's user."""
        return os.path.isabs(os.path.expanduser(self.path))


def named_paths(config: Config) -> list[NamedPath]:
    """Every path on a disk that the config names; addresses of stores and names of models are left out."""
    return [
        NamedPath(key, address)
        for key, address in _addresses(config)
        if "://" not in address and not _is_model_name(key, address)
    ]


def check_job_paths(config: Config) -> None:
    """Check that a run inside a Ray job names no path that depends on the working directory.

    That is a folder of Ray's cache there, other on each node, which Ray removes after the job.

    Raises:
        ConfigError: the first such path.
    """
    if is_ray_job():
        check_absolute(config, "inside a Ray job it lies in Ray's copy of the working directory")


def check_absolute(config: Config, reason: str) -> None:
    """Check that every path is absolute.

    Args:
        reason: why it must be, for the message.

    Raises:
        ConfigError: the first path that is relative; one line.
    """
    for named in named_paths(config):
        if not named.is_absolute:
            raise ConfigError(
                f"{named.key}: {named.path} is relative, and {reason}; give an absolute path on "
                f"{SHARED_PLACES}"
            )


def _addresses(config: Config) -> Iterator[tuple[str, str]]:
    """(key, address) of everything that a run reads or writes, the run directory first."""
    yield "run.dir", config.run.dir
    for corpus in ("shapes", "clipart"):
        if getattr(config, corpus) is not None:
            yield f"{corpus}_dir", getattr(config, f"{corpus}_dir")
    for name, source in config.sources.items():
        manifest = source.rows.manifest
        for each in (manifest,) if isinstance(manifest, str) else manifest:
            yield f"sources.{name}.rows.manifest", each
        for key in ("images", "serve"):
            if (address := getattr(source, key)) is not None:
                yield f"sources.{name}.{key}", address
        yield from _fetch_addresses(f"sources.{name}.fetch", source.fetch)
    yield from _fetch_addresses("fetch", config.fetch)
    for name, captions in config.candidates.items():
        files = captions.files
        for each in (files,) if isinstance(files, str) else files:
            yield f"candidates.{name}.files", each
    for section in ("captioner", "filter"):
        for key in ("checkpoint", "tokenizer"):
            address = getattr(getattr(config, section), key)
            if address is not None and address != NO_CAPTIONER:
                yield f"{section}.{key}", _place(address)
    for key in ("vision_start", "text_start", "tokenizer"):
        if (address := getattr(config.model, key)) is not None:
            yield f"model.{key}", _place(address)


def _fetch_addresses(section: str, fetch: FetchConfig | None) -> Iterator[tuple[str, str]]:
    if fetch is not None:
        if fetch.image_root is not None:
            yield f"{section}.image_root", fetch.image_root
        yield from ((f"{section}.blocked", each) for each in fetch.blocked)


def _place(address: str) -> str:
    """The address; absolute if it names a shipped file, which every node has beside the program."""
    shipped, given = SHIPPED_ROOT / address, Path(address)
    is_shipped = address.startswith("configs/") and shipped.exists()
    return str(shipped) if is_shipped and (not given.exists() or shipped.samefile(given)) else address


def _is_model_name(key: str, address: str) -> bool:
    """Whether an address is the name of a timm model (see `start_weights`)."""
    is_path = "/" in address or address.endswith(".safetensors") or os.path.exists(address)
    return key == "model.vision_start" and not is_path
