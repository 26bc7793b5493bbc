"""Numbers and texts as the report page prints them."""

from __future__ import annotations

import unicodedata

MAX_TEXT_LENGTH = 240
"""Characters of a text that are shown."""


def format_percent(value: float | None, digits: int = 1) -> str:
    """0.1234 → "12.3 %"; None → an en dash."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def format_interval(low: float | None, high: float | None) -> str:
    """(0.1234, 0.5678) → "12.3–56.8 %"; None → an en dash."""
    return "–" if low is None or high is None else f"{100 * low:.1f}–{100 * high:.1f} %"


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


def format_rate(value: float | None) -> str:
    """1234.5 → "1 234", 1.234 → "1.23": at least three digits; None → an en dash."""
    if value is None:
        return "–"
    return format_count(round(value)) if value >= 100 else f"{value:.3g}"


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


def to_printable(text: str, limit: int = MAX_TEXT_LENGTH) -> str:
    """A text with its invisible characters replaced by U+FFFD, cut to `limit` characters with an ellipsis."""
    printable = "".join(
        "\N{REPLACEMENT CHARACTER}" if _is_invisible(character) else character
        for character in text[: limit + 1]
    )
    return printable if len(printable) <= limit else printable[: limit - 1].rstrip() + "…"


def _is_invisible(character: str) -> bool:
    """Whether a character is a control other than white space, a surrogate, or a direction mark.

    Zero-width joiners are part of words and emoji, and do not count.
    """
    return (
        (unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r")
        or "\u202a" <= character <= "\u202e"
        or "\u2066" <= character <= "\u2069"
    )
