"""The state of the status actor, in this process; tests/end_to_end/test_board.py runs it as an actor."""

import pytest

from capfilt.cluster.board import MAX_CAUSES, MAX_NOTICES, _StatusActor


@pytest.fixture
def actor():
    return _StatusActor.__ray_metadata__.modified_class()


def test_latest_values_replace_earlier_ones(actor):
    actor.post("pretrain.0", {"step": 1, "loss": 2.5})
    actor.post("pretrain.0", {"step": 2})
    actor.post("filter.1", {"step": 9})
    values = actor.read()
    assert values["pretrain.0"].pop("at") > 0
    assert values["pretrain.0"] == {"step": 2, "loss": 2.5} and values["filter.1"]["step"] == 9


def test_claims_are_counted_until_the_shard_is_released(actor):
    assert [actor.claim("n", "caption", "web/000001") for _ in range(3)] == [0, 1, 2]
    assert actor.claim("n", "filter", "web/000001") == actor.claim("other", "caption", "web/000001") == 0
    actor.release("n", "caption", "web/000001")
    assert actor.claim("n", "caption", "web/000001") == 0
    assert actor.claim("n", "filter", "web/000001") == 1
    actor.release("n", "caption", "web/000002")  # never claimed


def test_stages_show_what_they_work_on_and_which_processes_started(actor):
    for shard in ("web/000001", "web/000002", "web/000002"):  # a process died on the last one
        actor.claim("n", "caption", shard)
    actor.claim("n", "fetch", "web/000003")
    actor.post("n", {"total": 5})
    for _ in range(2):
        actor.report_start("n", "caption")
    read = actor.read()
    assert read["n"]["at_work"] == {"caption": 2, "fetch": 1} and read["n"]["started"] == {"caption": 2}
    actor.release("n", "fetch", "web/000003")
    assert actor.read()["n"]["at_work"] == {"caption": 2} and actor.read()["n"]["total"] == 5


def test_rate_of_a_stage_is_the_mean_of_its_processes_last_ones(actor):
    for process, rate in (("a", 9.0), ("a", 2.0), ("b", 4.0)):
        actor.report_rate("n", "caption", process, rate)
    actor.report_rate("n", "filter", "a", 7.0)
    assert actor.read() == {"n": {"rates": {"caption": 3.0, "filter": 7.0}}}
    assert actor.rates("n") == {"caption": 3.0, "filter": 7.0} and actor.rates("other") == {}


def test_shards_that_are_processed_again_are_counted_by_stage_and_cause(actor):
    """A process that is ended for its memory has died: its next attempt counts, not its report."""
    actor.report_failure("n", "caption: the worker process used 2 GB", None, None)
    assert actor.read() == {}
    for stage in ("caption", "caption", "filter"):
        actor.report_failure("n", "a cause", "web/000001", stage)
    for _ in range(3):
        actor.claim("n", "caption", "web/000002")
    assert actor.read()["n"]["repeated"] == {"caption": {"error": 2, "death": 2}, "filter": {"error": 1}}


def test_nodes_drain_apart_until_they_start_again(actor):
    actor.set_draining("n", True)
    actor.set_draining("n", True)
    actor.set_holding("n", True)
    assert actor.order("n") == "skip" and actor.order("other") == "begin"
    actor.set_draining("n", False)
    actor.set_draining("n", False)
    assert actor.order("n") == "hold"
    actor.set_holding("n", False)
    actor.set_holding("n", False)
    assert actor.order("n") == "begin"


def test_failures_are_counted_by_cause(actor):
    for shard in ("web/000001", "web/000002", "web/000001", None):
        actor.report_failure("n", "caption: OSError", shard, "caption")
    actor.report_failure("n", "fetch: killed", None, None)
    assert actor.failures("n") == {"caption: OSError": 4, "fetch: killed": 1}
    assert actor.failed_shards("n") == {"web/000001", "web/000002"}
    assert actor.failures("other") == {} and actor.failed_shards("other") == set()


def test_the_number_of_causes_is_bounded(actor):
    for number in range(MAX_CAUSES + 5):
        actor.report_failure("n", f"cause {number}", f"web/{number:06d}", None)
    actor.report_failure("n", "cause 0", None, None)
    assert actor.failures("n") == {f"cause {i}": 2 if i == 0 else 1 for i in range(MAX_CAUSES)}
    assert len(actor.failed_shards("n")) == MAX_CAUSES + 5


def test_notices_are_kept_once_and_their_number_is_bounded(actor):
    for number in range(MAX_NOTICES + 5):
        for _ in range(2):
            actor.add_notice("n", f"line {number}")
    assert actor.read()["n"]["notices"] == [f"line {i}" for i in range(MAX_NOTICES)]
