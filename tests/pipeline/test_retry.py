"""Failed rows are asked for again in place: what changes, what stays, and what is there whenever it is broken off."""

import csv
import io
import json
import shutil
import tarfile
from contextlib import ExitStack, chdir, nullcontext, suppress
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from cluster.engine import demand_of, run_local
from cluster.shrinking import ClusterShrunk
from cluster.sizing import Share, Sizing, divide
from pipeline.chain import fetch_configs, fetch_steps, retry_steps
from pipeline.inputs import Fingerprints
from pipeline.ledger import Ledger, fingerprint
from pipeline.load import ConfigError, parse_config
from pipeline.plan import plan
from pipeline.prepare import finish_replacing, hold_run
from pipeline.replacing import publish, staged_shards
from pipeline.retry import closing_lines, retry_rows
from stages.manifest import build_index
from stages.retry import DamagedShard, RetryConfig, UnknownClass, chosen_classes
from stages.status import STATUSES
from stages.store import Store, sha256

SIZING = Sizing(Share(1, 0.5, 0.0), Share(1, 0.5, 0.0), Share(1, 0.5, 0.0), 4, 0)
LATE = ("p1.png", "p4.png")
"""Pictures of shards 0 and 1 that are not there at first."""


class Scene:
    """A source of nine pictures in three shards, fetched while two of them were missing."""

    def __init__(self, folder):
        self.folder, self.pictures, self.run = folder, folder / "pictures", folder / "run"
        self.config = parse_config(
            {
                "run": {"dir": str(self.run)},
                "sources": {
                    "web": {
                        "kind": "web",
                        "rows": {"manifest": "manifest.csv", "shard_size": 3},
                        "images": "pictures",
                    }
                },
                "fetch": {"image": {"min_side": 4}},
                "captioner": {"checkpoint": "c"},
                "filter": {"checkpoint": "f"},
            },
            "test",
        )
        self.store, self.nodes = Store(str(self.run)), plan(self.config)
        self.ledger = Ledger(self.store)

    def make(self):
        self.pictures.mkdir()
        rows = [(f"p{i}.png", f"text {i}") for i in range(9)]
        with open(self.folder / "manifest.csv", "w", newline="") as stream:
            csv.writer(stream).writerows([("url", "caption"), *rows])
        for name, _ in rows:
            if name not in LATE:
                self.draw(name)
        self.fetch()
        for shard in range(3):  # as a bootstrap leaves them
            self.store.put_json(f"rounds/1/web/{shard:06d}.json", {"shard": shard})
        for name in ("bootstrap.1", "report.1"):
            self.ledger.finish(name, {}, seconds=1.0)

    def fetch(self, shards=3):
        build_index(self.config.sources["web"].rows, self.store / "corpus/web/index", source="web")
        print_ = fingerprint(Fingerprints(self.config, self.nodes).corpus("web"))
        self.go(
            lambda configs: fetch_steps(self.config, self.store, configs, {"web": print_}, SIZING),
            range(shards),
        )

    def draw(self, name):
        Image.new("RGB", (8, 8), (30 * int(name[1]), 90, 200)).save(self.pictures / name)

    def go(self, steps, shards):
        with ExitStack() as stack:
            made = steps(fetch_configs(self.config, ("web",), stack))
            return list(run_local([{"source": "web", "shard": s} for s in shards], made))

    def stage(self, *classes, shards=(0, 1)):
        config = RetryConfig(run=self.store, classes=classes)
        results = self.go(lambda configs: retry_steps(config, configs, SIZING), shards)
        return [json.loads(result["records"])["retry"] for result in results]

    def publish(self):
        staged = staged_shards(self.store, self.ledger)
        return publish(self.store, self.ledger, self.nodes, {"web": "web"}, staged)

    def statuses(self, shard):
        table = pq.read_table(self.run / f"corpus/web/{shard:06d}.parquet")
        return table["status"].to_pylist()

    def files(self):
        """{name: content} of the corpus, without times."""
        found = {}
        for path in sorted((self.run / "corpus/web").glob("0*")):
            found[path.name] = path.read_bytes()
            if path.suffix == ".json":
                found[path.name] = {k: v for k, v in json.loads(path.read_bytes()).items() if k != "seconds"}
        return found

    def check_readers(self):
        """Each shard has no record, or one that its files agree with; every file is whole."""
        for shard in range(3):
            path = self.run / f"corpus/web/{shard:06d}.json"
            if path.exists():
                for file in json.loads(path.read_text())["files"]:
                    assert sha256((path.parent / file["name"]).read_bytes()) == file["sha256"]
            with tarfile.open(path.with_suffix(".tar")) as tar:
                assert tar.getnames()
            pq.read_table(path.with_suffix(".parquet"))


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("template")
    with chdir(folder):  # paths are relative: they are in the fingerprint, and a copy has the same
        Scene(folder).make()
    return folder


@pytest.fixture
def scene(template, tmp_path, monkeypatch):
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Scene(tmp_path)


def images_in(path):
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar}


def test_only_the_failed_rows_are_asked_for_and_only_their_shards_change(scene):
    assert scene.statuses(0) == ["success", "missing_file", "success"]
    before, tar = scene.files(), images_in(scene.run / "corpus/web/000000.tar")
    for name in LATE:
        scene.draw(name)
    for i in (0, 2, 3, 5):
        (scene.pictures / f"p{i}.png").unlink()  # asked for again they would be lost
    outcomes = scene.stage("missing_file")
    assert [o["status"] for o in outcomes] == [{"success": 1}] * 2 and [o["asked"] for o in outcomes] == [
        1,
        1,
    ]
    assert scene.files() == before  # nothing counts yet
    changed, again = scene.publish()
    assert [s.shard for s in changed] == [0, 1] and again == ["bootstrap.1", "report.1"]
    assert scene.statuses(0) == scene.statuses(1) == ["success"] * 3
    scene.check_readers()
    after, new_tar = scene.files(), images_in(scene.run / "corpus/web/000000.tar")
    assert {n for n in after if after[n] != before.get(n)} == {
        f"00000{s}.{ending}" for s in (0, 1) for ending in ("tar", "parquet", "json")
    }
    assert tar.items() <= new_tar.items() and len(new_tar) == len(tar) + 3
    assert (
        after["000000.json"]["rows"] == {"read": 3, "status": {"success": 3}}
        and after["000000.json"]["texts"] == 3
    )
    assert sorted(p.name for p in (scene.run / "rounds/1/web").iterdir()) == ["000002.json"]
    assert scene.ledger.node("bootstrap.1") is None and scene.store.exists("nodes/bootstrap.1.started.json")
    assert scene.ledger.node("report.1") is None


def test_the_result_is_that_of_a_fetch_that_found_everything(scene, tmp_path):
    for name in LATE:
        scene.draw(name)
    whole = Scene(tmp_path)
    whole.run = tmp_path / "whole"
    whole.store = Store(str(whole.run))
    whole.fetch()
    scene.stage("missing_file")
    scene.publish()
    assert scene.files() == whole.files()


@pytest.fixture
def command(scene, monkeypatch):
    """`retry_rows` with the chain in this process instead of on a cluster, which calls an execution with failed
    shards a success."""

    class Board:
        def __init__(self):
            self.causes = {}

        def read(self):
            return {}

        def of(self, node):
            return self

        def fail(self, cause, *, wait=False):
            self.causes[cause] = 1

        def begin(self, stage, shard):
            return 0

        def end(self, stage, shard):
            pass

        def failures(self, node):
            return self.causes

    def local(items, steps, *, segment, name):
        for item in items:
            with suppress(DamagedShard):
                yield from run_local([item], steps)

    monkeypatch.setattr("pipeline.shard_nodes.run_chain", local)
    monkeypatch.setattr("pipeline.retry.session", lambda config: nullcontext())
    monkeypatch.setattr("pipeline.retry.Board", Board)
    monkeypatch.setattr("pipeline.context.Run.sizing", lambda self: SIZING)

    def call(*classes, out=None):
        console = Console(file=out or io.StringIO(), width=200)
        with hold_run(scene.config, console.print) as lease:
            return retry_rows(scene.config, classes, console, lease)

    scene.store.put("config.yaml", b"")
    return call


def test_command_asks_replaces_and_says_what_comes_next(scene, command):
    scene.draw("p1.png")
    found = command("missing_file", "timeout")
    assert (found.asked, dict(found.status)) == (2, {"success": 1, "missing_file": 1})
    assert (found.shards, found.changed, found.failed, found.trained) == (2, 1, None, None)
    assert closing_lines(found, "a run", "capfilt retry", "capfilt run x") == [
        ("asked again", "2 rows = 1 success, 1 missing_file"),
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
        found.failed is not None and "1 of 2 shards failed for good (first: shard 0 of web)" in found.failed
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

    monkeypatch.setattr("pipeline.shard_nodes.run_chain", first_without_shard_0)
    found = command("missing_file")
    assert passes == [[0, 1], [0]]
    assert (found.failed, found.changed, dict(found.status)) == (None, 2, {"success": 2})


def test_on_a_cluster_that_has_shrunk_the_chain_is_made_anew_in_its_size(scene, command, monkeypatch):
    for name in LATE:
        scene.draw(name)
    sizes = iter([4.0, 1.0])
    resize = lambda self: divide(self.config.cluster, cpus=next(sizes), gpus=0.0)  # noqa: E731
    monkeypatch.setattr("pipeline.context.Run.sizing", resize)
    asked = []

    def shrinks(items, steps, **_):
        asked.append(demand_of(steps).cpus)
        if len(asked) == 1:
            raise ClusterShrunk("half of it is gone")
        yield from run_local(items, steps)

    monkeypatch.setattr("pipeline.shard_nodes.run_chain", shrinks)
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
    monkeypatch.setattr("pipeline.shard_nodes.run_chain", shrinks)
    with pytest.raises(ClusterShrunk, match="nearly all"):
        command("missing_file")
    assert passes == [2, 2, 1, 1, 1]


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
    assert "web: its images came with tars, there is nothing to ask again" in out.getvalue()
    assert scene.files() == before


def test_a_corpus_of_other_settings_is_refused(scene, command):
    fetch = replace(scene.config.fetch, image=replace(scene.config.fetch.image, min_side=2))
    scene.config = scene.config.model_copy(update={"fetch": fetch})
    with pytest.raises(
        ConfigError, match="fetched with other settings than the config has now; retry with the same"
    ):
        command("missing_file")


def test_a_row_that_fails_as_before_replaces_nothing(scene):
    before = scene.files()
    outcomes = scene.stage("missing_file")
    assert [o["status"] for o in outcomes] == [{"missing_file": 1}] * 2
    assert scene.publish() == ([], [])
    assert scene.files() == before and scene.ledger.node("bootstrap.1") is not None
    assert scene.stage("dns", shards=(2,))[0]["asked"] == 0


def test_another_failure_is_a_change(scene):
    (scene.pictures / "p1.png").write_bytes(b"<html>no picture</html>")
    assert scene.stage("missing_file", shards=(0,))[0]["status"] == {"not_image": 1}
    changed, _ = scene.publish()
    assert len(changed) == 1 and scene.statuses(0) == ["success", "not_image", "success"]


STEPS = 13
"""Writes, moves and removals of one replacement."""


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", range(STEPS + 1))
def test_broken_off_at_any_step_no_reader_sees_a_mixture_and_the_next_command_finishes(
    scene, at, monkeypatch
):
    scene.draw("p1.png")
    scene.stage("missing_file", shards=(0,))
    steps = []

    def breaking(name):
        original = getattr(Store, name)

        def call(self, *args, **kwargs):
            if len(steps) == at:
                raise Killed
            steps.append(name)
            result = original(self, *args, **kwargs)
            scene.check_readers()
            return result

        return call

    with monkeypatch.context() as patched:
        for name in ("remove", "remove_file", "move", "create", "put"):
            patched.setattr(Store, name, breaking(name))
        try:
            scene.publish()
            finished = True
        except Killed:
            finished = False
    assert finished or len(steps) == at
    assert finished == (at == STEPS), (
        f"replacing a shard takes {len(steps)} steps now: try to break off at each"
    )
    scene.check_readers()
    finish_replacing(scene.config, scene.store, scene.ledger, scene.nodes)
    assert scene.statuses(0) == ["success"] * 3 and scene.statuses(1) == [
        "success",
        "missing_file",
        "success",
    ]
    assert len(scene.ledger.committed("corpus/web")) == 3
    assert scene.ledger.committed("rounds/1/web") == [1, 2]
    assert scene.ledger.node("bootstrap.1") is None and not scene.store.exists("replacing")
    scene.check_readers()


def test_a_generation_of_a_shard_that_was_made_anew_since_is_thrown_away(scene):
    scene.draw("p1.png")
    scene.stage("missing_file", shards=(0,))
    path = scene.run / "corpus/web/000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": {"fetch": 99}}))
    before = scene.files()
    finish_replacing(scene.config, scene.store, scene.ledger, scene.nodes)
    assert scene.files() == before and not scene.store.exists("replacing")


def test_a_late_attempt_leaves_the_staged_generation_alone(scene):
    scene.draw("p1.png")
    (first,) = scene.stage("missing_file", shards=(0,))
    assert scene.stage("missing_file", shards=(0,)) == [first]
    scene.publish()
    scene.check_readers()


def test_a_damaged_shard_is_not_written_anew(scene):
    path = scene.run / "corpus/web/000000.tar"
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DamagedShard, match=r"000000\.tar is not what was written; run capfilt verify --repair"
    ):
        scene.stage("missing_file", shards=(0,))


def test_classes():
    assert chosen_classes(" dns,timeout,http_5xx,dns") == ("dns", "http_5xx", "timeout")
    assert set(chosen_classes(None)) == {name for name, status in STATUSES.items() if status.retryable}
    with pytest.raises(UnknownClass, match=r"--class: slow: no such status; allowed: dns, connect, timeout"):
        chosen_classes("dns,slow")
    for wrong in ("success", "pending", " , "):
        with pytest.raises(UnknownClass):
            chosen_classes(wrong)


def test_picture_bytes_are_pictures(scene):
    tar = images_in(scene.run / "corpus/web/000002.tar")
    for name, data in tar.items():
        if name.endswith(".jpg"):
            assert Image.open(io.BytesIO(data)).size == (8, 8)
