"""Numbers and texts as the page prints them."""

import pytest

from capfilt.pipeline.report.formats.values import (
    format_count,
    format_duration,
    format_interval,
    format_number,
    format_percent,
    format_probability,
    format_rate,
    format_signed,
    metric_label,
    to_printable,
)


def test_percentages_and_numbers_have_one_digit_unless_asked_otherwise() -> None:
    assert format_percent(0.12345) == "12.3 %" and format_percent(0.12345, 2) == "12.35 %"
    assert format_number(12.345) == "12.3" and format_number(0.12345, 3) == "0.123"
    assert format_signed(12.345) == "+12.3" and format_signed(-0.5, 2) == "−0.50"
    assert format_percent(None) == format_number(None) == format_signed(None) == format_count(None) == "–"


def test_counts_are_grouped_by_narrow_spaces() -> None:
    assert format_count(0) == "0" and format_count(999) == "999"
    assert format_count(1234567) == "1\u202f234\u202f567"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0.000"),
        (0.0004999, "<\u202f0.001"),
        (0.0005, "0.001"),
        (0.25, "0.250"),
        (0.99949, "0.999"),
        (0.9995, ">\u202f0.999"),
        (0.9999999, ">\u202f0.999"),
        (1, "1.000"),
    ],
)
def test_probability_is_printed_as_0_or_1_only_if_it_is(value: float, expected: str) -> None:
    assert format_probability(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.0 s"),
        (59.9, "59.9 s"),
        (60, "1 min 00 s"),
        (61.4, "1 min 01 s"),
        (3599.4, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (3 * 3600 + 5 * 60 + 59, "3 h 05 min"),
    ],
)
def test_duration_has_two_units_from_a_minute_on(seconds: float, expected: str) -> None:
    assert format_duration(seconds) == expected


def test_metrics_are_named_as_in_papers() -> None:
    names = ("itc_tr@1", "ir@10", "bleu@4", "cider", "rouge_l")
    assert [metric_label(name) for name in names] == ["ITC TR@1", "IR@10", "BLEU-4", "CIDEr", "ROUGE-L"]


def test_invisible_characters_are_replaced() -> None:
    replaced = "\N{REPLACEMENT CHARACTER}"
    assert to_printable("a\tb\x00c\u2066d\ud800") == f"a\tb{replaced}c{replaced}d{replaced}"
    assert to_printable("\u2029\u202a\u202e\u202f") == f"\u2029{replaced}{replaced}\u202f"
    assert to_printable("\u2065\u2066\u2069\u206a") == f"\u2065{replaced}{replaced}\u206a"
    assert to_printable("line\nநி\u200d👩\u200d🚀") == "line\nநி\u200d👩\u200d🚀"


def test_long_text_is_cut_with_an_ellipsis() -> None:
    assert to_printable("x" * 300, limit=10) == "x" * 9 + "…"
    assert to_printable("x" * 11, limit=10) == "x" * 9 + "…"
    assert to_printable("x" * 10, limit=10) == "x" * 10
    assert to_printable("xxxx  xxxx", limit=7) == "xxxx…"
    assert to_printable("x" * 240) == "x" * 240 and len(to_printable("x" * 241)) == 240


def test_interval_has_its_unit_once() -> None:
    assert format_interval(0.1234, 0.5678) == "12.3–56.8 %"
    assert format_interval(None, None) == "–"


@pytest.mark.parametrize(
    ("rate", "shown"),
    [(1234.5, "1\u202f234"), (100, "100"), (99.96, "100"), (99.94, "99.9"), (1.234, "1.23"), (None, "–")],
)
def test_rate_has_three_digits(rate: float | None, shown: str) -> None:
    assert format_rate(rate) == shown
