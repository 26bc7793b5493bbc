"""The status board as a Ray actor, and what workers do when it does not answer."""

import time

import ray

from capfilt.cluster.board import StatusBoard


def test_a_claim_outlives_the_process_that_made_it(ray_session):
    status = StatusBoard().for_node("bootstrap.1")
    assert [status.claim("caption", "web/000001") for _ in range(3)] == [0, 1, 2]
    assert status.claim("caption", "web/000002") == status.claim("filter", "web/000001") == 0
    status.release("caption", "web/000001")
    assert status.claim("caption", "web/000001") == 0
    assert status.claim("filter", "web/000001") == 1


def test_work_continues_without_the_board(ray_session):
    board = StatusBoard()
    status = board.for_node("n")
    board.post("n", step=3)
    status.post(**{"pretrain.0": "ranking"})
    status.claim("caption", "web/000001")
    last_read = board.read()
    assert last_read["n"]["step"] == 3 and last_read["n"]["pretrain.0"] == "ranking"
    ray.kill(status.actor)  # without a restart
    deadline = time.monotonic() + 30
    while status.claim("caption", "web/000001"):  # the actor may answer once more
        assert time.monotonic() < deadline, "the board still answers"
    status.release("caption", "web/000001")
    status.report_failure("a cause", wait=True)
    assert board.read() == last_read and board.failures("n") == {}


def test_a_notice_is_kept_once(ray_session):
    board, line = StatusBoard(), "caption: out of memory with 64 images at once, going on with 32"
    for _ in range(2):
        board.for_node("n").add_notice(line)
    assert board.read()["n"]["notices"] == [line]


def test_a_process_about_to_exit_can_report_its_cause(ray_session):
    board = StatusBoard()
    board.for_node("n").report_failure("used too much memory", shard="web/000001", wait=True)
    assert board.failures("n") == {"used too much memory": 1}
    assert board.failed_shards("n") == {"web/000001"}
