"""`capfilt retry`: which rows it downloads, what it prints, and clusters that fail or shrink meanwhile."""

import io
import tarfile
from contextlib import nullcontext, suppress
from dataclasses import replace

import pytest
from rich.console import Console

from capfilt.cluster.chain.engine import chain_demand
from capfilt.cluster.chain.resizing import ClusterShrunk
from capfilt.cluster.sizing import divide_resources
from capfilt.pipeline.config.load import ConfigError, parse_config
from capfilt.pipeline.maintenance.retry import closing_lines, retry_rows
from capfilt.pipeline.prepare import hold_run
from capfilt.stages.shards.retry import DamagedShard
from capfilt.stages.storage.layout import corpus_shard, source_folders
from tests.local_chain import run_local
from tests.pipeline.maintenance.partial_run import LATE_IMAGES, SIZING
from tests.runs import NO_RESULT, writable
from tests.tiny import tiny_data


class Board:
    """A status board in this process."""

    def __init__(self):
        self.causes, self.failed = {}, set()

    def read(self, timeout):
        return {}

    def for_node(self, node):
        return self

    def report_failure(self, cause, *, shard=None, stage=None, wait=False):
        self.causes[cause] = 1
        self.failed.add(shard)

    def report_start(self, stage):
        pass

    def set_draining(self, draining):
        pass

    def set_holding(self, holding):
        pass

    def order(self):
        return "begin"

    def claim(self, stage, shard):
        return 0

    def release(self, stage, shard):
        pass

    def failures(self, node):
        return self.causes

    def failed_shards(self, node):
        return set(self.failed)


@pytest.fixture
def retry(partial_run, monkeypatch):
    """`retry_rows` with a chain in this process instead of on a cluster. Shards that fail do not end the
    chain."""

    def local(items, steps, **_):
        for item in items:
            with suppress(DamagedShard):
                yield from run_local([item], steps)

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", local)
    monkeypatch.setattr("capfilt.pipeline.maintenance.retry.session", lambda config: nullcontext())
    monkeypatch.setattr("capfilt.pipeline.maintenance.retry.count_nodes", lambda: 1)
    monkeypatch.setattr("capfilt.pipeline.maintenance.retry.StatusBoard", Board)
    monkeypatch.setattr("capfilt.pipeline.nodes.context.RunContext.sizing", lambda self, *_: SIZING)

    def call(*classes, out=None):
        console = Console(file=out or io.StringIO(), width=200)
        with hold_run(partial_run.config, console.print) as run_dir:
            return retry_rows(run_dir, classes, console)

    partial_run.store.put("config.yaml", b"")
    return call


def test_rows_are_downloaded_and_the_next_command_is_printed(partial_run, retry):
    partial_run.draw("p1.png")
    result = retry("missing_file", "timeout")
    assert (result.rows, dict(result.status)) == (2, {"success": 1, "missing_file": 1})
    assert (result.shards, result.changed, result.failed, result.trained_before) == (2, 1, None, None)
    assert closing_lines(result, "a run", "capfilt retry", "capfilt run x") == [
        ("retried", "2 rows = 1 success, 1 missing_file"),
        ("changed", "1 of 2 shards"),
        ("run", "a run"),
        ("to do", "bootstrap.1, report.1"),
        ("continue", "capfilt run x"),
    ]
    assert not partial_run.store.exists("replacing")
    assert retry("timeout").rows == 0


def test_interrupted_retry_is_resumed(partial_run, retry):
    for name in LATE_IMAGES:
        partial_run.draw(name)
    partial_run.stage("missing_file", shards=(0,))
    (partial_run.images / "p1.png").unlink()  # a second download would fail
    result = retry("missing_file")
    assert (result.rows, dict(result.status), result.changed) == (2, {"success": 2}, 2)


def test_retry_of_other_statuses_first_publishes_what_is_staged(partial_run, retry):
    partial_run.draw("p1.png")
    partial_run.stage("missing_file", shards=(0,))
    result = retry("dns")
    assert (result.rows, result.changed, result.unfinished) == (0, 0, ["bootstrap.1", "report.1"])
    assert partial_run.statuses(0) == ["success"] * 3


def test_shards_that_cannot_be_retried_are_unchanged(partial_run, retry):
    for name in LATE_IMAGES:
        partial_run.draw(name)
    path = partial_run.path / "images/web/000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    before = partial_run.corpus()
    result = retry("missing_file")
    assert (
        result.failed is not None
        and "1 of 2 shards failed in every attempt (first: shard 0 of web)" in result.failed
    )
    assert "000000.tar is not what was written; run capfilt verify --repair first" in result.failed
    assert (result.rows, dict(result.status), result.changed) == (1, {"success": 1}, 1)
    after = partial_run.corpus()
    assert {name for name in after if after[name] != before[name]} == {
        f"000001.{ending}" for ending in ("tar", "parquet", "json")
    }
    assert closing_lines(result, "r", "capfilt retry r", "capfilt run x")[-1] == ("resume", "capfilt retry r")


@pytest.mark.parametrize("breaks", [False, True])
def test_shards_that_fail_once_are_retried_while_others_are_completed(
    partial_run, retry, monkeypatch, breaks
):
    """As when a machine of the cluster is lost while it processes a shard."""
    for name in LATE_IMAGES:
        partial_run.draw(name)
    passes = []

    def first_without_shard_0(items, steps, **_):
        passes.append([item["shard"] for item in items])
        yield from run_local(items[1:] if len(passes) == 1 else items, steps)
        if breaks and len(passes) == 1:
            raise RuntimeError("the engine broke down")

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", first_without_shard_0)
    result = retry("missing_file")
    assert passes == [[0, 1], [0]]
    assert (result.failed, result.changed, dict(result.status)) == (None, 2, {"success": 2})


def test_chain_is_built_again_for_a_cluster_that_has_shrunk(partial_run, retry, monkeypatch):
    for name in LATE_IMAGES:
        partial_run.draw(name)
    sizes = iter([4.0, 1.0])
    resize = lambda self, *_: divide_resources(self.config.cluster, cpus=next(sizes), gpus=0.0)  # noqa: E731
    monkeypatch.setattr("capfilt.pipeline.nodes.context.RunContext.sizing", resize)
    demands = []

    def shrinks(items, steps, **_):
        demands.append(chain_demand(steps).cpus)
        if len(demands) == 1:
            raise ClusterShrunk("half of it is gone")
        yield from run_local(items, steps)

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", shrinks)
    result = retry("missing_file")
    assert demands == [0.5, 0.125] and (result.failed, result.changed) == (None, 2)


def test_retry_ends_if_the_cluster_shrinks_in_every_pass(partial_run, retry, monkeypatch):
    passes = []

    def shrinks(items, steps, **_):
        passes.append(len(items))
        if len(passes) in (1, 3):  # one shard is completed in between, which resets the count
            raise ClusterShrunk("half of it is gone")
        if len(passes) == 2:
            yield from run_local(items[:1], steps)
        raise ClusterShrunk("nearly all of it is gone")

    for name in LATE_IMAGES:
        partial_run.draw(name)
    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", shrinks)
    result = retry("missing_file")
    assert passes == [2, 2, 1, 1, 1]
    assert result.failed is not None and "nearly all of it is gone" in result.failed
    assert (result.rows, result.changed) == (1, 1)  # completed shards count


def test_error_of_the_engine_is_one_line_and_completed_shards_count(partial_run, retry, monkeypatch):
    """As with Ray Data and few shards, where the first error ends the execution."""
    for name in LATE_IMAGES:
        partial_run.draw(name)
    path = partial_run.path / "images/web/000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    passes = []

    def gives_up(items, steps, **_):
        passes.append([item["shard"] for item in items])
        yield from run_local(items, steps)

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", gives_up)
    result = retry("missing_file")
    assert passes[:2] == [[0, 1], [1, 0]], "the shard that failed comes last"
    assert result.failed is not None and "\n" not in result.failed
    assert "000000.tar is not what was written; run capfilt verify --repair first" in result.failed
    assert (result.rows, result.changed) == (1, 1)
    assert partial_run.store.exists("nodes/retry.failure.log")
    place = corpus_shard("web", 0)
    for name in (place.tar, place.record, place.parquet):
        partial_run.store.remove_file(name)
    assert retry("missing_file").failed is None


def test_images_that_came_in_a_tar_are_not_retried(partial_run, retry):
    with tarfile.open("images.tar", "w") as tar:
        for name, data in (("0.jpg", b"no image"), ("0.txt", b"a text")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    web = partial_run.config.sources["web"]
    rows = replace(web.rows, manifest="images.tar")
    tars = web.model_copy(update={"rows": rows, "images": None})
    partial_run.config = partial_run.config.model_copy(update={"sources": {"web": tars}})
    for folder in source_folders("web"):
        partial_run.store.remove(folder)
    partial_run.fetch(shards=1)
    assert partial_run.statuses(0) == ["not_image"]
    before, out = partial_run.corpus(), io.StringIO()
    assert retry("not_image", out=out).rows == 0
    assert "web: its images came in tars, there is nothing to download" in out.getvalue()
    assert partial_run.corpus() == before


def test_corpus_that_was_fetched_with_other_settings_is_refused(partial_run, retry):
    fetch = replace(partial_run.config.fetch, image=replace(partial_run.config.fetch.image, min_side=2))
    partial_run.config = partial_run.config.model_copy(update={"fetch": fetch})
    with pytest.raises(
        ConfigError, match="fetched with other settings than the config has now; retry with the same"
    ):
        retry("missing_file")


@pytest.mark.parametrize(
    ("undone", "trained_before"),
    [
        ([], None),
        (["fetch"], "pretrain.0"),
        (["fetch", "pretrain.0"], "captioner.1"),
        (["bootstrap.1", "report.1"], "pretrain.1"),
        (["report.1"], None),
    ],
)
def test_first_training_that_read_the_old_corpus_is_named(tmp_path, undone, trained_before):
    run_dir = writable(parse_config(tiny_data(tmp_path), "test"))
    for name in run_dir.nodes:
        if name not in undone:
            run_dir.ledger.finish(name, {}, NO_RESULT, 1.0)
    # No source has a corpus here, so the retry itself has nothing to do.
    result = retry_rows(run_dir, ("dns",), Console(quiet=True))
    assert (result.unfinished, result.trained_before) == (undone, trained_before)
    lines = dict(closing_lines(result, "r", "capfilt retry r", "capfilt run x"))
    assert lines["retried"] == "no row"
    if trained_before is None:
        assert "trained before" not in lines
    else:
        command = f"capfilt run x --fresh {trained_before}"
        assert lines["trained before"] == f"{trained_before} is unchanged; {command} trains it again"
    if undone:
        assert lines["to do"] == ", ".join(undone) and lines["continue"] == "capfilt run x"
    else:
        assert lines["again"] == "capfilt retry r"
