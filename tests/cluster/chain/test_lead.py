"""How far the first stage may be ahead."""

import pytest

from capfilt.cluster.chain.lead import LEAD_S, MIN_SHARDS, UNTRIED_SHARDS, Queue, is_too_far_ahead


def test_limits_are_those_of_the_docs():
    assert (LEAD_S, MIN_SHARDS, UNTRIED_SHARDS) == (60.0, 2, 4)


@pytest.mark.parametrize(
    ("waiting", "processes", "seconds", "is_long"),
    [
        (60, 1, 1.0, False),  # a minute of work
        (61, 1, 1.0, True),
        (120, 2, 1.0, False),
        (121, 2, 1.0, True),
        (2, 1, 900.0, False),  # so few that the stage might run out of work
        (3, 1, 900.0, True),
        (8, 4, 900.0, False),
        (9, 4, 900.0, True),
        (4, 1, None, False),
        (5, 1, None, True),
        (16, 4, None, False),
        (17, 4, None, True),
        (10_000, 1, 0.0, False),
    ],
)
def test_a_queue_is_long_if_it_holds_more_than_a_minute_of_work(waiting, processes, seconds, is_long):
    queue = Queue(waiting, processes, seconds)
    assert queue.is_long is is_long
    assert is_too_far_ahead([Queue(0, 1, 1.0), queue]) is is_long


def test_without_stages_behind_it_the_first_one_never_waits():
    assert not is_too_far_ahead([])
