"""Numbers as the report page prints them."""

from __future__ import annotations


def format_percent(value: float | None, digits: int = 1) -> str:
    """0.1234 → "12.3 %"; None → an en dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def format_number(value: float | None, digits: int = 1) -> str:
    """12.34 → "12.3"; None → an en dash."""
    return "–" if value is None else f"{value:.{digits}f}"


def format_signed(value: float | None, digits: int = 1) -> str:
    """12.34 → "+12.3", negative numbers with a minus sign instead of a hyphen; None → an en dash."""
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def format_probability(value: float) -> str:
    """Three digits; "0.000" and "1.000" stand for exactly 0 and 1 only."""
    if 0 < value < 0.0005:
        return "<\N{NARROW NO-BREAK SPACE}0.001"
    return ">\N{NARROW NO-BREAK SPACE}0.999" if 0.9995 <= value < 1 else f"{value:.3f}"


def format_count(value: int | None) -> str:
    """1234567 → "1 234 567" with narrow no-break spaces; None → an en dash."""
    return "–" if value is None else f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def format_duration(seconds: float) -> str:
    """7.25 → "7.2 s", 90 → "1 min 30 s", 3700 → "1 h 01 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def metric_label(metric: str) -> str:
    """A metric's name as papers print it: "itc_tr@1" → "ITC TR@1", "bleu@4" → "BLEU-4"."""
    special = {"cider": "CIDEr", "rouge_l": "ROUGE-L"}
    return special.get(metric) or metric.upper().replace("_", " ").replace("BLEU@", "BLEU-")
