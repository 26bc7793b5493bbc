"""What the calibration of a filter has found. Does not import numpy."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class NoiseEstimate:
    """An estimate of the share of noise among texts."""

    pairs: int
    """Texts that it was made from."""
    noise: float
    """Share of noise, 0 to 1."""
    low: float
    high: float
    """Limits of the 95 % interval."""


@dataclass(frozen=True)
class Calibration:
    """What a calibration has found about the web texts of a round."""

    all: NoiseEstimate
    """Share of the texts that are unrelated to their image, over all web sources."""
    threshold: float
    """Suggested threshold of the ITM probability."""
    keeps_matching: float
    """Share of the matching texts that the suggested threshold keeps, as far as the estimate is right."""
    keeps_noise: float
    """Share of noise texts that it keeps."""
    by_source: dict[str, NoiseEstimate] = field(default_factory=dict)
    """By web source."""
    details: NoiseEstimate | None = None
    """Share of the texts that are about their image, but wrong in a detail; they are not part of `all`. None
    if the filter finds too few wrong words, and in calibrations of earlier versions."""

    @property
    def shares(self) -> list[tuple[str, NoiseEstimate]]:
        """The kinds of noise that were estimated, with their shares."""
        found = [("unrelated", self.all)]
        return found if self.details is None else [*found, ("wrong in a detail", self.details)]
