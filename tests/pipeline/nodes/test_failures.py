"""Messages about nodes, shards and rows that fail."""

from types import SimpleNamespace

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.nodes.failures import check_failed_fraction, describe_failure, failure_causes
from capfilt.stages.storage.store import Store, StoreError
from tests.pipeline.test_errors import stage_error, trace_of
from tests.tiny import tiny_data


def config_of(tmp_path, **run):
    return parse_config(tiny_data(tmp_path, **run), "test")


@pytest.mark.parametrize(
    ("limit", "status"),
    [
        (0.25, {"success": 3, "dns": 1}),
        (0.0, {"success": 3}),
        (1.0, {"success": 1, "dns": 99}),
        (0.0, {}),
        (1.0, {}),
    ],
)
def test_share_of_failed_rows_may_be_as_large_as_the_limit(tmp_path, limit, status):
    check_failed_fraction(config_of(tmp_path, max_failed_fraction=limit), "web", status)


@pytest.mark.parametrize(
    ("limit", "status", "message"),
    [
        (0.25, {"success": 29, "dns": 10}, "10 of 39 rows failed (10 dns), more than "),
        (0.0, {"success": 99, "dns": 1}, "1 of 100 rows failed (1 dns), more than "),
        (1.0, {"dns": 3}, "all 3 rows failed (3 dns); look at corpus/web/*.parquet"),
    ],
)
def test_larger_share_fails_and_so_do_all_rows_whatever_the_limit(tmp_path, limit, status, message):
    with pytest.raises(NodeFailed) as error:
        check_failed_fraction(config_of(tmp_path, max_failed_fraction=limit), "web", status)
    line = str(error.value)
    assert line.startswith(f"source web: {message}") and "\n" not in line
    assert ("raise the limit" in line) == ("all" not in message)


def test_most_frequent_failures_are_named(tmp_path):
    config = config_of(tmp_path, max_failed_fraction=0.5)
    status = {"timeout": 2, "success": 5, "dns": 9, "http_404": 4, "not_image": 1}
    with pytest.raises(NodeFailed, match=r"16 of 21 rows failed \(9 dns, 4 http_404, 2 timeout\)"):
        check_failed_fraction(config, "web", status)


def test_two_most_common_causes_of_failed_shards_are_named(tmp_path):
    causes = {"rare": 1, "often": 5, "sometimes": 2}
    context = SimpleNamespace(board=SimpleNamespace(failures=lambda node: causes), config=config_of(tmp_path))
    assert failure_causes(context, "fetch") == "often; sometimes"
    causes.clear()
    line = failure_causes(context, "fetch")
    assert line.startswith("worker processes exited without an error message") and "stall_seconds" in line


def test_user_error_is_the_message_itself(tmp_path):
    context = SimpleNamespace(store=Store(str(tmp_path / "run")))
    assert describe_failure(context, "fetch", NodeFailed("one line")) == "one line"
    assert context.store.list() == []


def test_full_disk_in_a_stage_is_the_line_of_the_stage(tmp_path):
    context = SimpleNamespace(store=Store(str(tmp_path / "run")))
    line = "/x/run/images/web/000003.tar: cannot write it (No space left on device); the disk is full"
    assert describe_failure(context, "fetch", stage_error(trace=trace_of(StoreError(line)))) == line


def test_trace_of_any_other_error_is_kept(tmp_path):
    context = SimpleNamespace(store=Store(str(tmp_path / "run")))
    error = ValueError("a defect")
    line = describe_failure(context, "fetch", error)
    place = f"{tmp_path}/run/nodes/fetch.failure.log"
    assert line == f"fetch: ValueError: a defect; the whole trace is in {place}"
    assert b"ValueError: a defect" in context.store.read("nodes/fetch.failure.log")


def test_full_disk_is_named_whoever_found_it(tmp_path):
    context = SimpleNamespace(store=Store(str(tmp_path / "run")))
    line = describe_failure(context, "fetch", RuntimeError("cannot spill: No space left on device"))
    assert line.startswith(
        "fetch: RuntimeError: cannot spill: No space left on device; the disk is full: free "
    )


@pytest.mark.parametrize("unwritable", [OSError("disk full"), StoreError("s3://b: denied")])
def test_trace_that_cannot_be_written_does_not_hide_the_error(tmp_path, monkeypatch, unwritable):
    def put(self, name, data):
        raise unwritable

    monkeypatch.setattr(Store, "put", put)
    context = SimpleNamespace(store=Store(str(tmp_path / "run")))
    line = describe_failure(context, "fetch", ValueError("a defect"))
    assert line == f"fetch: ValueError: a defect; the trace could not be written ({unwritable})"
