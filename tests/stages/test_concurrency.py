"""Results in order, of a bounded number of items."""

import threading

import pytest

from capfilt.stages.concurrency import AHEAD, map_ahead


@pytest.mark.parametrize("threads", [1, 3])
def test_results_are_in_order_and_few_items_are_begun_before_their_results_are_taken(threads):
    taken, begun = [], []

    def items():
        for number in range(50):
            taken.append(number)
            yield number

    def double(number):
        begun.append(number)
        return 2 * number

    results = map_ahead(double, items(), threads)
    for number in range(50):
        assert next(results) == 2 * number
        assert len(taken) <= number + AHEAD * threads
    assert next(results, None) is None
    assert sorted(begun) == list(range(50))


def test_an_error_comes_at_the_place_of_its_item_and_ends_the_work():
    begun = []

    def fail_at_three(number):
        begun.append(number)
        if number == 3:
            raise ValueError(number)
        return number

    results = map_ahead(fail_at_three, range(1000), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="3"):
        next(results)
    assert len(begun) < 20


def test_items_are_worked_on_at_the_same_time():
    barrier = threading.Barrier(4, timeout=30)
    assert list(map_ahead(lambda number: barrier.wait() >= 0, range(8), 4)) == [True] * 8


def test_nothing_is_left_at_work_when_the_consumer_stops():
    before = set(threading.enumerate())
    results = map_ahead(lambda number: number, range(1000), 2)
    next(results)
    assert set(threading.enumerate()) - before
    results.close()
    assert not set(threading.enumerate()) - before
