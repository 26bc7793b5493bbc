"""Wilson intervals."""

import pytest

from capfilt.pipeline.evaluation.intervals import difference_interval, wilson_interval


@pytest.mark.parametrize(
    ("part", "whole", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_is_that_of_the_literature(part: int, whole: int, low: float, high: float) -> None:
    """Table I of R. G. Newcombe, Statistics in Medicine 17 (1998), method 3."""
    assert wilson_interval(part, whole) == pytest.approx((low, high), abs=5e-5)


def test_interval_of_the_rest_is_the_mirror_image() -> None:
    low, high = wilson_interval(3, 10) or (0, 0)
    assert wilson_interval(7, 10) == pytest.approx((1 - high, 1 - low))
    assert (wilson_interval(20, 20) or (0, 0))[1] == 1 and (wilson_interval(0, 20) or (1, 1))[0] == 0


def test_no_interval_without_cases() -> None:
    assert wilson_interval(0, 0) is None


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [
        ((48, 80), (56, 70), 0.0524, 0.3339),
        ((3, 10), (9, 10), 0.1705, 0.8090),
        ((2, 7), (6, 7), 0.0582, 0.8062),
        ((0, 29), (5, 56), -0.0381, 0.1926),
        ((0, 20), (0, 10), -0.1611, 0.2775),
        ((0, 20), (10, 10), 0.6791, 1.0000),
    ],
)
def test_interval_of_a_difference_is_that_of_the_literature(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    """Table II of R. G. Newcombe, Statistics in Medicine 17 (1998), pages 873 to 890, method 10."""
    assert difference_interval(first, second) == pytest.approx((low, high), abs=5e-5)
    low, high = difference_interval(second, first) or (0, 0)
    assert difference_interval(first, second) == pytest.approx((-high, -low))


def test_no_interval_of_a_difference_without_cases() -> None:
    assert difference_interval((0, 0), (1, 2)) is None and difference_interval((1, 2), (0, 0)) is None
