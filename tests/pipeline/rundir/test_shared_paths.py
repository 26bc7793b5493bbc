"""What is refused on a cluster whose nodes do not see the same files.

The nodes are functions here: each sees a folder of its own in place of the driver's.
tests/faults/test_shared_paths.py asks real ones.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from capfilt.pipeline.config.load import ConfigError, parse_config
from capfilt.pipeline.rundir import shared_paths as module
from capfilt.pipeline.rundir.shared_paths import check_shared_paths
from capfilt.stages.storage.store import Store, StoreError
from tests.tiny import tiny_data


@pytest.fixture
def data(tmp_path):
    """Config data whose files exist below `driver`."""
    root = tmp_path / "driver"
    data = tiny_data(root)
    for name in ("human", "web", "test"):
        (root / "shapes" / name).mkdir(parents=True)
        (root / "shapes" / name / "a.png").write_bytes(b"image")
    for manifest in ("human/annotations.json", "web/manifest.parquet", "test/annotations.json"):
        (root / "shapes" / manifest).write_bytes(b"rows")
    return data


def seen_from(root, **views):
    """A stand-in for `ask_each_node`: each node sees its own folder in place of the driver's `root`."""

    def ask(question, store, probe, sights):
        answers = []
        for name, view in views.items():
            moved = [replace(each, path=each.path.replace(str(root), str(view))) for each in sights]
            lines = question(Store(store.url.replace(str(root), str(view))), probe, moved)
            answers.append((name, [line.replace(str(view), str(root)) for line in lines]))
        return answers

    return ask


def check(data, nodes=2, **views):
    config = parse_config(data, "c")
    store = Store(config.run.dir)
    root = Path(config.run.dir).parent
    check_shared_paths(config, store, nodes, seen_from(root, **views))


def test_nodes_that_see_everything_are_accepted(tmp_path, data):
    check(data, a=tmp_path / "driver", b=tmp_path / "driver")
    assert os.listdir(tmp_path / "driver/run") == []  # the probe is removed


def test_a_node_with_a_disk_of_its_own_is_named(tmp_path, data):
    (tmp_path / "own/run").mkdir(parents=True)
    with pytest.raises(StoreError) as error:
        check(data, nodes=3, a=tmp_path / "driver", b=tmp_path / "own", c=tmp_path / "absent")
    line = str(error.value)
    assert line.startswith(f"run.dir: {tmp_path}/driver/run lacks the file") and "\n" not in line
    assert "on 2 of 3 nodes (b, c); use a file system that all nodes share, or an object store" in line
    assert os.listdir(tmp_path / "driver/run") == []


def test_a_run_directory_that_a_node_may_not_read_is_named(tmp_path, data, monkeypatch):
    def refuse(self, name):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(module.Store, "read", refuse)
    with pytest.raises(StoreError, match=r"^run\.dir: .*/run cannot be read \(.*Permission denied.*1 of 1"):
        check(data, a=tmp_path / "driver")


def test_another_file_of_the_same_name_is_another_folder(tmp_path, data, monkeypatch):
    monkeypatch.setattr(module.Store, "read", lambda self, name: b"something")
    with pytest.raises(StoreError, match=r"^run\.dir: .*/run is another folder on 1 of 1 nodes \(a\)"):
        check(data, a=tmp_path / "driver")


def remove_manifest(view):
    (view / "shapes/web/manifest.parquet").unlink()


def shorten_manifest(view):
    (view / "shapes/web/manifest.parquet").write_bytes(b"row")


def empty_images(view):
    shutil.rmtree(view / "shapes/human")
    (view / "shapes/human").mkdir()


def remove_images(view):
    shutil.rmtree(view / "shapes/test")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (remove_manifest, "sources.web.rows.manifest: {root}/shapes/web/manifest.parquet is no file"),
        (
            shorten_manifest,
            "sources.web.rows.manifest: {root}/shapes/web/manifest.parquet has 3 bytes instead of 4",
        ),
        (remove_images, "sources.test.images: {root}/shapes/test is no folder"),
    ],
)
def test_an_input_that_a_node_lacks_is_named(tmp_path, data, monkeypatch, damage, said):
    # The view of the node is a copy, so it lacks the probe, which is not the subject here.
    monkeypatch.setattr(module.Store, "read", lambda self, name: name.encode())
    shutil.copytree(tmp_path / "driver", tmp_path / "own")
    check(data, b=tmp_path / "own")
    damage(tmp_path / "own")
    if damage is remove_images:
        (tmp_path / "own/shapes/test").mkdir()
        (tmp_path / "own/shapes/test/annotations.json").write_bytes(b"rows")
        shutil.rmtree(tmp_path / "own/shapes/test")
        data["sources"]["test"]["rows"]["manifest"] = data["sources"]["human"]["rows"]["manifest"]
    with pytest.raises(ConfigError) as error:
        check(data, b=tmp_path / "own")
    assert str(error.value).startswith(said.format(root=tmp_path / "driver") + " on 1 of 1 nodes (b)")


def test_a_mount_point_without_its_file_system_is_found(tmp_path, data, monkeypatch):
    monkeypatch.setattr(module.Store, "read", lambda self, name: name.encode())
    images = tmp_path / "driver/images"
    images.mkdir()
    (images / "a.png").write_bytes(b"image")
    data["sources"]["human"]["images"] = str(images)
    shutil.copytree(tmp_path / "driver", tmp_path / "own")
    (tmp_path / "own/images/a.png").unlink()
    with pytest.raises(ConfigError, match=r"^sources\.human\.images: .*/images has no a\.png on 1 of 1"):
        check(data, b=tmp_path / "own")


def test_wildcards_are_looked_at_by_their_folder(tmp_path, data, monkeypatch):
    monkeypatch.setattr(module.Store, "read", lambda self, name: name.encode())
    data["sources"]["web"]["rows"]["manifest"] = str(tmp_path / "driver/shapes/web/*.parquet")
    shutil.copytree(tmp_path / "driver", tmp_path / "own")
    check(data, b=tmp_path / "own")
    shutil.rmtree(tmp_path / "own/shapes/web")
    with pytest.raises(ConfigError, match=r"^sources\.web\.rows\.manifest: .*/shapes/web is no folder"):
        check(data, b=tmp_path / "own")


def test_folders_that_only_the_driver_reads_are_not_asked_for(tmp_path, data, monkeypatch):
    monkeypatch.setattr(module.Store, "read", lambda self, name: name.encode())
    (tmp_path / "driver/served").mkdir()
    data["sources"]["web"]["serve"] = str(tmp_path / "driver/served")
    shutil.copytree(tmp_path / "driver", tmp_path / "own")
    (tmp_path / "own/served").rmdir()
    check(data, b=tmp_path / "own")


@pytest.mark.parametrize("nodes", [0, 1])
def test_a_single_node_is_not_asked(data, nodes):
    data["run"]["dir"] = "runs/relative"
    check(data, nodes=nodes)


def test_on_several_nodes_a_relative_path_is_refused(data):
    data["run"]["dir"] = "runs/relative"
    with pytest.raises(ConfigError, match=r"^run\.dir: runs/relative is relative, and the 2 nodes of this"):
        check(data, nodes=2)
