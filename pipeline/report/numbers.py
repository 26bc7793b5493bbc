"""NEW FILE."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


def percent(value: float | None, digits: int = 1) -> str:
    """0.1234 → "12.3 %"; None → an en dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def label(metric: str) -> str:
    """A metric's name as papers print it: "itc_tr@1" → "ITC TR@1", "bleu@4" → "BLEU-4"."""
    printed = {"cider": "CIDEr", "rouge_l": "ROUGE-L"}
    return printed.get(metric) or metric.upper().replace("_", " ").replace("BLEU@", "BLEU-")


def number(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def probability(value: float) -> str:
    """Three digits, and never 0.000 or 1.000 for a score that is not."""
    if 0 < value < 0.0005:
        return "<\u202f0.001"
    return ">\u202f0.999" if 0.9995 <= value < 1 else f"{value:.3f}"


def signed(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def count(value: int | None) -> str:
    """1234567 → "1 234 567" with narrow spaces that do not break."""
    return "–" if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
