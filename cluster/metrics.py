"""Numbers for Prometheus: metrics of this process, which Ray's agent on its machine exports."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.util import metrics as ray_metrics

log = logging.getLogger(__name__)

PREFIX = "ray_"
"""Ray puts this before the name of every metric."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Metrics of one name that differ in their labels."""

    name: str
    """Without what Ray and Prometheus add to it (`series`)."""
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...]

    @property
    def series(self) -> str:
        """Name of the exported series."""
        return f"{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


class Exporter:
    """Exports metrics of a process that is connected to Ray. Its errors are logged, once, and never raised: a
    run does not fail for a number that nobody has to read.

    Args:
        families: what is exported; each is declared when it has its first value.
        labels: labels and their values that every metric has.
    """

    def __init__(self, families: Iterable[Family], labels: Mapping[str, str]) -> None:
        self.families = {family.name: family for family in families}
        self.labels = dict(labels)
        self._declared: dict[str, Any] = {}
        self._gauges: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        """(family, labels) → the last value."""
        self._failed = False

    def add(self, name: str, value: float, **labels: str) -> None:
        """Add to a counter; nothing happens if the value is 0."""
        if value > 0:
            self._record(name, "inc", value, labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge. Its series ends about 20 s later, unless `refresh` is called until then."""
        self._gauges[name, tuple(labels.items())] = value
        self._record(name, "set", value, labels)

    def forget(self, name: str, **labels: str) -> None:
        """Let the series of a gauge that have these labels end."""
        for family, own in list(self._gauges):
            if family == name and set(labels.items()) <= set(own):
                del self._gauges[family, own]

    def refresh(self) -> None:
        """Set all gauges once more: Ray sends a value to its agent once, and the agent forgets it."""
        for (name, labels), value in list(self._gauges.items()):
            self._record(name, "set", value, dict(labels))

    def _record(self, name: str, act: Literal["inc", "set"], value: float, labels: dict[str, str]) -> None:
        family = self.families[name]
        try:
            metric = self._declared.get(name) or self._declare(family)
            getattr(metric, act)(float(value), self.labels | labels)
        except Exception as error:  # whatever Ray's bindings raise
            if not self._failed:
                log.warning("metrics are not exported (%s: %s)", type(error).__name__, error)
            self._failed = True

    def _declare(self, family: Family) -> Any:
        kind = ray_metrics.Counter if family.kind == "counter" else ray_metrics.Gauge
        keys = (*self.labels, *family.labels)
        metric = self._declared[family.name] = kind(family.name, family.help, keys)
        return metric
