"""Failed rows are asked for again in place: what changes, what stays, and what is there whenever it is broken off."""

import io
import json

import pytest
from PIL import Image

from capfilt.pipeline.rundir.generations import finish_replacing
from capfilt.stages.shards.retry import DamagedShard, UnknownClass, retry_classes
from capfilt.stages.status import STATUSES
from capfilt.stages.storage.store import Store
from tests.pipeline.maintenance.retry_scene import LATE, Scene, images_in


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
    whole = Scene(tmp_path, run="whole")
    whole.fetch()
    scene.stage("missing_file")
    scene.publish()
    assert scene.files() == whole.files()


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


STEPS = 14
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
    finish_replacing(scene.run_dir)
    assert scene.statuses(0) == ["success"] * 3 and scene.statuses(1) == [
        "success",
        "missing_file",
        "success",
    ]
    assert len(scene.ledger.committed_shards("corpus/web")) == 3
    assert scene.ledger.committed_shards("rounds/1/web") == [1, 2]
    assert scene.ledger.node("bootstrap.1") is None and not scene.store.exists("replacing")
    scene.check_readers()


def test_a_generation_of_a_shard_that_was_made_anew_since_is_thrown_away(scene):
    scene.draw("p1.png")
    scene.stage("missing_file", shards=(0,))
    path = scene.run / "corpus/web/000000.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": {"fetch": 99}}))
    before = scene.files()
    finish_replacing(scene.run_dir)
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
    assert retry_classes(" dns,timeout,http_5xx,dns") == ("dns", "http_5xx", "timeout")
    assert set(retry_classes(None)) == {name for name, status in STATUSES.items() if status.retryable}
    with pytest.raises(UnknownClass, match=r"--class: slow: no such status; allowed: dns, connect, timeout"):
        retry_classes("dns,slow")
    for wrong in ("success", "pending", " , "):
        with pytest.raises(UnknownClass):
            retry_classes(wrong)


def test_picture_bytes_are_pictures(scene):
    tar = images_in(scene.run / "corpus/web/000002.tar")
    for name, data in tar.items():
        if name.endswith(".jpg"):
            assert Image.open(io.BytesIO(data)).size == (8, 8)
