"""What the board knows of shards in hand, and what workers do without it."""

import time

import ray

from capfilt.cluster.board import StatusBoard


def test_a_shard_in_hand_outlives_who_had_it(ray_session):
    board = StatusBoard().of("bootstrap.1")
    assert [board.begin("caption", "web/000001") for _ in range(3)] == [0, 1, 2]
    assert board.begin("caption", "web/000002") == board.begin("filter", "web/000001") == 0
    board.end("caption", "web/000001")
    assert board.begin("caption", "web/000001") == 0
    assert board.begin("filter", "web/000001") == 1


def test_without_the_board_work_goes_on(ray_session):
    whole = StatusBoard()
    board = whole.of("n")
    whole.post("n", step=3)
    board.begin("caption", "web/000001")
    known = whole.read()
    assert known["n"]["step"] == 3
    ray.kill(board.actor)  # for good
    deadline = time.monotonic() + 30
    while board.begin("caption", "web/000001"):  # it may answer once more
        assert time.monotonic() < deadline
    board.end("caption", "web/000001")
    board.fail("a cause", wait=True)
    assert whole.read() == known and whole.failures("n") == {}


def test_a_line_for_the_user_is_kept_once(ray_session):
    whole = StatusBoard()
    for _ in range(2):
        whole.of("n").note("caption: out of memory with 64 images at once, going on with 32")
    assert whole.read()["n"]["notices"] == ["caption: out of memory with 64 images at once, going on with 32"]


def test_causes_are_told_even_by_a_process_about_to_end(ray_session):
    whole = StatusBoard()
    whole.of("n").fail("took too much", wait=True)
    assert whole.failures("n") == {"took too much": 1}
