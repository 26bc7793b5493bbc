"""`capfilt retry` as a command: what it asks for, what it says, and a cluster that fails or shrinks under it."""

import io
import tarfile
from contextlib import nullcontext, suppress
from dataclasses import replace

import pytest
from rich.console import Console

from capfilt.cluster.chain.engine import chain_demand
from capfilt.cluster.chain.shrinking import ClusterShrunk
from capfilt.cluster.sizing import divide_resources
from capfilt.pipeline.config.load import ConfigError
from capfilt.pipeline.maintenance.retry import closing_lines, retry_rows
from capfilt.pipeline.prepare import hold_run
from capfilt.stages.shards.retry import DamagedShard
from tests.local_chain import run_local
from tests.pipeline.maintenance.retry_scene import LATE, SIZING


@pytest.fixture
def command(scene, monkeypatch):
    """`retry_rows` with the chain in this process instead of on a cluster, which calls an execution with failed
    shards a success."""

    class Board:
        def __init__(self):
            self.causes, self.failed = {}, set()

        def read(self):
            return {}

        def for_node(self, node):
            return self

        def report_failure(self, cause, *, shard=None, wait=False):
            self.causes[cause] = 1
            self.failed.add(shard)

        def claim(self, stage, shard):
            return 0

        def release(self, stage, shard):
            pass

        def failures(self, node):
            return self.causes

        def failed_shards(self, node):
            return set(self.failed)

    def local(items, steps, *, segment, name):
        for item in items:
            with suppress(DamagedShard):
                yield from run_local([item], steps)

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", local)
    monkeypatch.setattr("capfilt.pipeline.maintenance.retry.session", lambda config: nullcontext())
    monkeypatch.setattr("capfilt.pipeline.maintenance.retry.StatusBoard", Board)
    monkeypatch.setattr("capfilt.pipeline.nodes.context.RunContext.sizing", lambda self: SIZING)

    def call(*classes, out=None):
        console = Console(file=out or io.StringIO(), width=200)
        with hold_run(scene.config, console.print) as run_dir:
            return retry_rows(run_dir, classes, console)

    scene.store.put("config.yaml", b"")
    return call


def test_command_asks_replaces_and_says_what_comes_next(scene, command):
    scene.draw("p1.png")
    found = command("missing_file", "timeout")
    assert (found.asked, dict(found.status)) == (2, {"success": 1, "missing_file": 1})
    assert (found.shards, found.changed, found.failed, found.trained) == (2, 1, None, None)
    assert closing_lines(found, "a run", "capfilt retry", "capfilt run x") == [
        ("retried", "2 rows = 1 success, 1 missing_file"),
        ("changed", "1 of 2 shards"),
        ("run", "a run"),
        ("to do", "bootstrap.1, report.1"),
        ("continue", "capfilt run x"),
    ]
    assert not scene.store.exists("replacing")
    assert command("timeout").asked == 0


def test_command_goes_on_where_it_was_broken_off(scene, command):
    for name in LATE:
        scene.draw(name)
    scene.stage("missing_file", shards=(0,))
    (scene.pictures / "p1.png").unlink()  # asked for once more it would be lost
    found = command("missing_file")
    assert (found.asked, dict(found.status), found.changed) == (2, {"success": 2}, 2)


def test_other_classes_first_put_in_place_what_is_ready(scene, command):
    scene.draw("p1.png")
    scene.stage("missing_file", shards=(0,))
    found = command("dns")
    assert (found.asked, found.changed, found.again) == (0, 0, ["bootstrap.1", "report.1"])
    assert scene.statuses(0) == ["success"] * 3


def test_shards_that_cannot_be_asked_again_stay_as_they_were(scene, command):
    for name in LATE:
        scene.draw(name)
    path = scene.run / "corpus/web/000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    before = scene.files()
    found = command("missing_file")
    assert (
        found.failed is not None
        and "1 of 2 shards failed in every attempt (first: shard 0 of web)" in found.failed
    )
    assert "000000.tar is not what was written; run capfilt verify --repair first" in found.failed
    assert (found.asked, dict(found.status), found.changed) == (1, {"success": 1}, 1)
    after = scene.files()
    assert {name for name in after if after[name] != before[name]} == {
        f"000001.{ending}" for ending in ("tar", "parquet", "json")
    }
    assert closing_lines(found, "r", "capfilt retry r", "capfilt run x")[-1] == ("resume", "capfilt retry r")


@pytest.mark.parametrize("breaks", [False, True])
def test_shards_that_fail_once_are_tried_again_while_others_get_done(scene, command, monkeypatch, breaks):
    """As when a node of the cluster dies with a shard in hand."""
    for name in LATE:
        scene.draw(name)
    passes = []

    def first_without_shard_0(items, steps, **_):
        passes.append([item["shard"] for item in items])
        yield from run_local(items[1:] if len(passes) == 1 else items, steps)
        if breaks and len(passes) == 1:
            raise RuntimeError("the engine broke down")

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", first_without_shard_0)
    found = command("missing_file")
    assert passes == [[0, 1], [0]]
    assert (found.failed, found.changed, dict(found.status)) == (None, 2, {"success": 2})


def test_on_a_cluster_that_has_shrunk_the_chain_is_made_anew_in_its_size(scene, command, monkeypatch):
    for name in LATE:
        scene.draw(name)
    sizes = iter([4.0, 1.0])
    resize = lambda self: divide_resources(self.config.cluster, cpus=next(sizes), gpus=0.0)  # noqa: E731
    monkeypatch.setattr("capfilt.pipeline.nodes.context.RunContext.sizing", resize)
    asked = []

    def shrinks(items, steps, **_):
        asked.append(chain_demand(steps).cpus)
        if len(asked) == 1:
            raise ClusterShrunk("half of it is gone")
        yield from run_local(items, steps)

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", shrinks)
    found = command("missing_file")
    assert asked == [0.5, 0.125] and (found.failed, found.changed) == (None, 2)


def test_a_cluster_that_shrinks_again_and_again_ends_it(scene, command, monkeypatch):
    passes = []

    def shrinks(items, steps, **_):
        passes.append(len(items))
        if len(passes) in (1, 3):  # one shard gets done in between, which counts from the beginning
            raise ClusterShrunk("half of it is gone")
        if len(passes) == 2:
            yield from run_local(items[:1], steps)
        raise ClusterShrunk("nearly all of it is gone")

    for name in LATE:
        scene.draw(name)
    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", shrinks)
    found = command("missing_file")
    assert passes == [2, 2, 1, 1, 1]
    assert found.failed is not None and "nearly all of it is gone" in found.failed
    assert (found.asked, found.changed) == (1, 1)  # what got done counts


def test_an_engine_that_gives_up_is_told_in_a_line_and_what_got_done_counts(scene, command, monkeypatch):
    """As Ray Data does with few shards: the first error ends the execution."""
    for name in LATE:
        scene.draw(name)
    path = scene.run / "corpus/web/000000.tar"
    path.write_bytes(path.read_bytes()[:-1] + b"!")

    passes = []

    def gives_up(items, steps, **_):
        passes.append([item["shard"] for item in items])
        yield from run_local(items, steps)

    monkeypatch.setattr("capfilt.pipeline.nodes.shards.run_chain", gives_up)
    found = command("missing_file")
    assert passes[:2] == [[0, 1], [1, 0]], "the shard that failed comes last"
    assert found.failed is not None and "\n" not in found.failed
    assert "000000.tar is not what was written; run capfilt verify --repair first" in found.failed
    assert (found.asked, found.changed) == (1, 1)
    assert scene.store.exists("nodes/retry.failure.log")
    for name in ("tar", "json", "parquet"):
        scene.store.remove_file(f"corpus/web/000000.{name}")  # mended
    assert command("missing_file").failed is None


def test_images_that_came_with_a_tar_are_not_asked_for(scene, command):
    with tarfile.open("images.tar", "w") as tar:
        for name, data in (("0.jpg", b"no picture"), ("0.txt", b"a text")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    web = scene.config.sources["web"]
    rows = replace(web.rows, manifest="images.tar")
    tars = web.model_copy(update={"rows": rows, "images": None})
    scene.config = scene.config.model_copy(update={"sources": {"web": tars}})
    scene.store.remove("corpus")
    scene.fetch(shards=1)
    assert scene.statuses(0) == ["not_image"]
    before, out = scene.files(), io.StringIO()
    assert command("not_image", out=out).asked == 0
    assert "web: its images came with tars, there is nothing to download again" in out.getvalue()
    assert scene.files() == before


def test_a_corpus_of_other_settings_is_refused(scene, command):
    fetch = replace(scene.config.fetch, image=replace(scene.config.fetch.image, min_side=2))
    scene.config = scene.config.model_copy(update={"fetch": fetch})
    with pytest.raises(
        ConfigError, match="fetched with other settings than the config has now; retry with the same"
    ):
        command("missing_file")
