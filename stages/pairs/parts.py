"""NEW FILE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from capfilt.stages.errors import UserError


@dataclass(frozen=True)
class ShardRef:
    """One corpus shard as training input."""

    source: str
    shard: int
    kind: Literal["human", "web"]
    part: int = 0
    parts: int = 1
    """It trains in every epoch e with e % parts == part; by default in all of them."""

    def trains_in(self, epoch: int) -> bool:
        """Whether epoch `epoch` (0 is the first) has this shard."""
        return epoch % self.parts == self.part


class PartsError(UserError):
    """A source that cannot be cut into as many parts as its config asks for."""


def check_parts(source: str, parts: int, shards: int) -> None:
    """Every part of a source has a shard.

    Raises:
        PartsError: more parts than shards; the line names the key and both ways out.
    """
    if parts > max(shards, 1):
        raise PartsError(
            f"sources.{source}.parts: {parts} parts of {shards} shards cannot be: give {max(shards, 1)} at most, "
            f"or smaller shards (sources.{source}.rows.shard_size) in another run directory"
        )


def assign_parts(refs: Iterable[ShardRef], parts: int) -> list[ShardRef]:
    """One source's shards, dealt in turn to `parts` parts, so that these differ by one shard at the most.

    Raises:
        PartsError: more parts than shards.
    """
    ordered = sorted(refs, key=lambda ref: ref.shard)
    if ordered:
        check_parts(ordered[0].source, parts, len(ordered))
    return [replace(ref, part=turn % parts, parts=parts) for turn, ref in enumerate(ordered)]
