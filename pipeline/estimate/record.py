"""The plan of a run: `plan.json` in its directory."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from capfilt.pipeline.estimate.spans import Span
from capfilt.stages.errors import UserError
from capfilt.stages.storage.layout import PLAN
from capfilt.stages.storage.store import DECODE_ERRORS, Store

VERSION = 1


class PlanError(UserError):
    """A plan cannot be made or read; the message says why and what to do."""


class Interval(Struct, frozen=True):
    """An estimate with the limits of its 95 % interval."""

    value: float
    low: float
    high: float


class PlannedSource(Struct, kw_only=True, frozen=True):
    """How much of a source there is."""

    rows: float
    shards: float
    is_estimated: bool
    """The rows are derived from a part of the manifest."""
    probed_rows: int
    """Rows of the small run."""
    stored: float
    """Share of these whose image was stored."""


class PlannedNode(Struct, kw_only=True, frozen=True):
    """A node, and what it is expected to take."""

    node: str
    units: float | None
    """Rows or steps; None where nothing is counted."""
    unit: str
    seconds: Interval | None
    """None where it is not known, as for downloads without a network."""
    cpus: float
    """CPUs and GPUs that it holds meanwhile."""
    gpus: float
    stages: dict[str, Interval] = {}
    """{stage: seconds that its processes work, summed over them}."""
    bytes: dict[str, Interval] = {}
    """By what they are: `received`, `images`, `rows`, `candidates`."""
    bottleneck: str | None = None
    """The stage that determines the time of a chain."""


class Plan(Struct, kw_only=True, frozen=True):
    """What a run is expected to take."""

    made: str
    """When, as an ISO 8601 time."""
    rows: int
    """Rows of each source in the small run, at most."""
    steps: int
    """Steps of each training in the small run."""
    network: bool
    """Images were requested from the web."""
    probe_seconds: float
    """Seconds that the small run took."""
    cpus: float
    """CPUs and GPUs of the assumed cluster."""
    gpus: float
    gpu_price: float | None
    """Price of a GPU and of a CPU for an hour."""
    cpu_price: float | None
    sources: dict[str, PlannedSource]
    nodes: list[PlannedNode]
    seconds: Interval
    """Of the run, without the start of Ray."""
    path: list[str]
    """The nodes that determine this time."""
    money: Interval | None
    """Price of the whole cluster for this time."""
    load: float | None = None
    """Processes that wanted a core of this machine in the minute before the small run, per core; None if the
    run works on other machines."""
    version: Annotated[int, Meta(ge=1)] = VERSION


def interval(span: Span, digits: int = 1) -> Interval:
    """A span as it is written."""
    return Interval(round(span.value, digits), round(span.low, digits), round(span.high, digits))


def write_plan(store: Store, plan: Plan) -> None:
    """Write the plan into a run directory, replacing an older one in one step."""
    store.put_json(PLAN, msgspec.to_builtins(plan))


def read_plan(store: Store) -> Plan | None:
    """The plan in a run directory, None if there is none.

    Raises:
        PlanError: the file is damaged.
    """
    data = store.find(PLAN)
    try:
        return None if data is None else msgspec.json.decode(data, type=Plan)
    except DECODE_ERRORS as error:
        raise PlanError(f"{store.address(PLAN)}: damaged ({error}); remove the file") from error
