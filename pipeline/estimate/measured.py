"""What a small run has measured, and how large the run is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class MeasuredShard:
    """A shard of a node."""

    source: str
    shard: int
    rows: int
    seconds: Mapping[str, float]
    """{stage: seconds that its process worked on the shard}."""
    bytes: Mapping[str, int] = field(default_factory=dict)
    """By what they are (`pipeline.rundir.contents.totals.record_bytes`)."""


@dataclass(frozen=True, kw_only=True)
class MeasuredNode:
    """A node of the small run."""

    seconds: float
    """From its start to its end."""
    shards: tuple[MeasuredShard, ...] = ()
    """Of a node that works on shards."""
    step_seconds: tuple[float, ...] = ()
    """Of a training: seconds of a step, on several pieces of it."""
    steps: int = 0
    pairs: int = 0
    """Of a training: the pairs that it has read."""
    parts: Mapping[str, float] = field(default_factory=dict)
    """Of a node with other parts: {part: seconds without what does not grow}."""
    units: int = 0
    """What these parts worked on: images, texts or pairs."""


@dataclass(frozen=True, kw_only=True)
class SourceSize:
    """How much of a source there is in the run, and in the small run."""

    rows: float
    shards: float
    is_estimated: bool
    """The rows are derived from a part of the manifest."""
    probed_rows: int
    probed_texts: int
    """Texts of stored images."""
    probed_images: int
    """Images that were stored."""

    @property
    def growth(self) -> float:
        """Rows of the run / rows of the small run."""
        return self.rows / self.probed_rows if self.probed_rows else 0.0


@dataclass(frozen=True, kw_only=True)
class Machines:
    """What a run works on."""

    cpus: float
    """CPUs that Ray may give away."""
    gpus: float
    cores: float
    """CPUs that there are: an embedded Ray gives away four on fewer."""
