"""Parts of a source: with `parts: n` each epoch of a training uses one n-th of the source's shards, in turn.

The paper trains on a fifth of LAION per epoch (section 4.1).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from capfilt.stages.errors import UserError


@dataclass(frozen=True)
class ShardRef:
    """One corpus shard as training data."""

    source: str
    shard: int
    kind: Literal["human", "web"]
    part: int = 0
    parts: int = 1
    """The shard is used in every epoch e with e % parts == part; by default in all epochs."""

    def is_in_epoch(self, epoch: int) -> bool:
        """Whether epoch `epoch`, counted from 0, uses this shard."""
        return epoch % self.parts == self.part


class PartsError(UserError):
    """A source has fewer shards than the config asks for parts."""


def check_parts(source: str, parts: int, shards: int) -> None:
    """Check that every part of a source has a shard; a source without shards has one empty part.

    Raises:
        PartsError: there are more parts than shards.
    """
    most = max(shards, 1)
    if parts > most:
        raise PartsError(
            f"sources.{source}.parts: {parts} parts need {parts} shards, but the source has {shards}; set at "
            f"most {most}, or use smaller shards (sources.{source}.rows.shard_size) in another run directory"
        )


def assign_parts(refs: Iterable[ShardRef], parts: int) -> list[ShardRef]:
    """Assign the shards of one source to `parts` parts in turn, so that the sizes of the parts differ by at
    most one.

    Raises:
        PartsError: there are more parts than shards.
    """
    ordered = sorted(refs, key=lambda ref: ref.shard)
    if ordered:
        check_parts(ordered[0].source, parts, len(ordered))
    return [replace(ref, part=number % parts, parts=parts) for number, ref in enumerate(ordered)]
