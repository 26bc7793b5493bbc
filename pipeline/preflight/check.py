"""Everything that `capfilt check` finds out, as data."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from capfilt.pipeline.config.load import to_json_data
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.sections import SourceSection
from capfilt.pipeline.console.activity import Tell, tell_nobody
from capfilt.pipeline.foreign.inputs import check_captions
from capfilt.pipeline.preflight.changes import changed_keys
from capfilt.pipeline.preflight.rows import SourceRows, look_at_rows
from capfilt.pipeline.preflight.tasks import TaskCheck, look_at_tasks
from capfilt.pipeline.prepare import check_sources, open_run, states
from capfilt.pipeline.rundir.probe import check_writable
from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.outcomes import locate_image
from capfilt.stages.fetch.urls.parse import parse_http_url
from capfilt.stages.status import Failure
from capfilt.stages.storage.store import Store

SHOWN_HOSTS = 5
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader")
SERVED = "http://served.invalid"
"""Stands for the address at which the driver will serve a folder."""


@dataclass(frozen=True)
class WebRequests:
    """What a source will ask of the web."""

    rows: int
    """Rows that were looked at."""
    hosts: int
    """Hosts in these rows."""
    commonest: list[tuple[str, int]]
    """(host, rows), most frequent first."""
    per_host_per_second: float | None
    per_host: int
    robots: bool
    contact: str | None


@dataclass(frozen=True)
class SourceCheck:
    """A source, and what is known of it before it is read."""

    kind: str
    found: SourceRows | None
    """None if the run itself makes the files."""
    web: WebRequests | None = None
    """None if no image of the source is on the web."""


@dataclass
class Preflight:
    """What a config will do, and whether it can."""

    config: dict[str, Any]
    changed: dict[str, Any]
    """Keys whose value is not the default, nested as in the config."""
    sources: dict[str, SourceCheck] = field(default_factory=dict)
    tasks: dict[str, TaskCheck] = field(default_factory=dict)
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Node → {"state", "needs"}."""
    store: dict[str, Any] = field(default_factory=dict)
    """{"url", "free_bytes"}; the free space is None where it is unknown."""
    devices: dict[str, Any] = field(default_factory=dict)
    """{"cpus", "memory_bytes", "gpus": names, "cluster": address or None}."""
    models: dict[str, str] = field(default_factory=dict)
    """Config key → address of the checkpoints that were opened."""


def run_preflight(config: Config, tell: Tell = tell_nobody) -> Preflight:
    """Look at everything that a run of this config needs; starts nothing.

    Args:
        tell: receives what is done at the moment.

    Raises:
        ArtifactError, LedgerError, ManifestError, StoreError: the first that would end the run; one line for
            the user.
    """
    found = Preflight(to_json_data(config), changed_keys(config))
    makes_sources = config.shapes is not None or config.clipart is not None
    if not makes_sources:
        tell("reading the manifests")
        check_sources(config)
    check_captions(config)
    for name, source in config.sources.items():
        tell(f"reading the manifest of {name}")
        found.sources[name] = _check_source(config, source, f"sources.{name}.rows", is_made=makes_sources)
    found.tasks = look_at_tasks(config, tell, is_made=makes_sources)
    tell("trying the store")
    run_dir = open_run(config)
    run_dir.ledger.check_place()
    found.store = try_store(run_dir.store)
    tell("comparing the run directory with the config, and reading checkpoints")
    state_of = states(run_dir)
    found.nodes = {
        name: {"state": state_of[name], "needs": list(node.needs)} for name, node in run_dir.nodes.items()
    }
    tell("opening checkpoints")
    for kind in dict.fromkeys(node.kind for name, node in run_dir.nodes.items() if state_of[name] != "done"):
        kind.check_inputs(config, run_dir.store)
    for role in ("captioner", "filter") if config.captions_itself else ("filter",):
        if (address := getattr(config, role).checkpoint) is not None:
            found.models[f"{role}.checkpoint"] = address
    tell("looking for devices")
    found.devices = find_devices(config)
    return found


def _check_source(config: Config, source: SourceSection, section: str, *, is_made: bool) -> SourceCheck:
    if is_made and not _exists(source):
        return SourceCheck(source.kind, None)
    fetch = place_images(source, config)
    found, urls = look_at_rows(source, fetch, section)
    if source.serve is not None:
        folder = source.serve.rstrip("/")
        found.samples = [replace(row, image=row.image.replace(SERVED, folder)) for row in found.samples]
    return SourceCheck(source.kind, found, _web_requests(urls, fetch))


def _exists(source: SourceSection) -> bool:
    names = [source.rows.manifest] if isinstance(source.rows.manifest, str) else source.rows.manifest
    return all("://" in name or Path(name).expanduser().exists() for name in names)


def place_images(source: SourceSection, config: Config) -> FetchConfig:
    """The fetch settings of a source, with the place that its relative urls belong to."""
    fetch = source.fetch or config.fetch
    if source.images is not None:
        return replace(fetch, image_root=source.images, backend="capfilt")
    base = source.base_url or (SERVED if source.serve is not None else None)
    return fetch if base is None else replace(fetch, base_url=base)


def _web_requests(urls: Sequence[str | None], fetch: FetchConfig) -> WebRequests | None:
    hosts = Counter[str]()
    for url in urls:
        with suppress(Failure):
            address, on_web = locate_image(url, fetch)
            if on_web and not address.startswith(SERVED):
                hosts[parse_http_url(address).host or ""] += 1
    if not hosts:
        return None
    return WebRequests(
        rows=len(urls),
        hosts=len(hosts),
        commonest=hosts.most_common(SHOWN_HOSTS),
        per_host_per_second=fetch.per_host_per_second,
        per_host=fetch.per_host,
        robots=fetch.robots,
        contact=fetch.contact,
    )


def try_store(store: Store) -> dict[str, Any]:
    """Write, read and remove a small object; folders that this makes are removed again.

    Raises:
        StoreError: the place cannot be a run directory.
    """
    created = _absent_folders(Path(store.path())) if store.is_local else []
    try:
        check_writable(store)
        free = shutil.disk_usage(store.path()).free if store.is_local else None
    finally:
        for folder in created:
            with suppress(OSError):
                folder.rmdir()
    return {"url": store.url, "free_bytes": free}


def _absent_folders(path: Path) -> list[Path]:
    """The folder and its parents that do not exist, innermost first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def find_devices(config: Config) -> dict[str, Any]:
    """CPUs, memory and GPUs of this machine, and the address of the cluster if the run will use one."""
    gpus: list[str] = []
    if shutil.which(GPU_QUERY[0]):
        with suppress(subprocess.SubprocessError, OSError):  # a driver that does not answer is no GPU
            answer = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=30, check=True)
            gpus = [line.strip() for line in answer.stdout.splitlines() if line.strip()]
    address = config.cluster.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "local")
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
        "cluster": None if address == "local" else address,
    }
