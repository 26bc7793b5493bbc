"""Checkpoints as local files: local paths, copies of remote files, and errors."""

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from capfilt.stages.storage import artifacts
from capfilt.stages.storage.artifacts import (
    ArtifactError,
    absolute_address,
    cache_folder,
    check_artifact,
    ensure_local,
    measure_artifact,
)
from capfilt.stages.storage.store import Store
from tests.s3_server import S3Fault


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Copies are made in a folder of the test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def run_dir(healthy_s3, request):
    """A run directory on the S3 server, with a model."""
    store = Store(f"s3://bucket/{request.node.name}", {"endpoint_url": healthy_s3.endpoint})
    store.put("models/m/model.safetensors", b"weights")
    store.put("models/m/config.json", b"{}")
    return store


def test_local_paths_are_used_directly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert ensure_local("model", "captioner.checkpoint") == str(tmp_path / "model")
    assert not cache_folder().exists()
    for call in (ensure_local, check_artifact):
        with pytest.raises(ArtifactError, match=r"^captioner\.checkpoint: nothing at none; give"):
            call("none", "captioner.checkpoint")


def test_addresses_are_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert absolute_address("a/b") == f"{tmp_path}/a/b"
    assert absolute_address("~/b") == os.path.expanduser("~/b")
    assert absolute_address("s3://a/b") == "s3://a/b"


def test_a_model_that_was_replaced_is_copied_again(s3, run_dir):
    for content in (b"first", b"second"):
        run_dir.put("models/m/model.safetensors", content)
        run_dir.put("models/m/sub/vocab.txt", b"v")
        s3.inject(S3Fault("truncate", method="GET", path=".*safetensors", times=1))
        folder = Path(ensure_local(run_dir.address("models/m"), "captioner.checkpoint", run_dir))
        assert (folder / "model.safetensors").read_bytes() == content
        assert (folder / "sub/vocab.txt").read_bytes() == b"v"
    address = run_dir.address("models/m/model.safetensors")
    assert Path(ensure_local(address, "captioner.checkpoint", run_dir)).read_bytes() == b"second"


def test_absent_models_and_unavailable_stores_are_one_line(s3, run_dir):
    for call in (ensure_local, check_artifact):
        s3.clear_faults()
        with pytest.raises(ArtifactError, match=r"captioner\.checkpoint: nothing at s3://.*/models/none"):
            call(run_dir.address("models/none"), "captioner.checkpoint", run_dir)
        s3.inject(S3Fault("no_bucket"))
        with pytest.raises(ArtifactError, match=r"captioner\.checkpoint: cannot read s3://"):
            call(run_dir.address("models/m"), "captioner.checkpoint", run_dir)


def test_one_process_of_a_machine_copies_a_model_and_the_others_wait(s3, run_dir):
    cache_folder().mkdir(mode=0o700)
    s3.inject(S3Fault("delay", method="GET", path=".*safetensors", times=1))
    with ThreadPoolExecutor(4) as pool:
        address = run_dir.address("models/m")
        copies = set(pool.map(lambda _: ensure_local(address, "model", run_dir), range(4)))
    requested = [path for method, path, *_ in s3.requests() if method == "GET" and "safetensors" in path]
    assert len(copies) == 1 and len(requested) == 1
    visible = [path.name for path in cache_folder().iterdir() if not path.name.startswith(".")]
    assert visible == [os.path.basename(copies.pop())]


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, lambda file: file.write_bytes(b"weight"), lambda file: file.write_bytes(b"planted")],
)
def test_an_incomplete_copy_is_made_again(run_dir, damage):
    copy = Path(ensure_local(run_dir.address("models/m"), "model", run_dir))
    damage(copy / "model.safetensors")
    artifacts._verified.clear()  # as in another process
    again = Path(ensure_local(run_dir.address("models/m"), "model", run_dir))
    assert again == copy and (copy / "model.safetensors").read_bytes() == b"weights"


def test_an_incomplete_download_is_an_error_and_leaves_no_copy(run_dir, monkeypatch):
    monkeypatch.setattr(run_dir.fs, "get_file", lambda source, target: Path(target).write_bytes(b"w"))
    with pytest.raises(ArtifactError, match="the copy of its 2 files is incomplete"):
        ensure_local(run_dir.address("models/m"), "model", run_dir)
    assert [path.name for path in cache_folder().iterdir() if path.is_dir()] == []


def test_files_without_a_stated_size_are_complete_if_they_exist(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert artifacts._is_complete(tmp_path, {"a": ("remote/a", None)})
    assert artifacts._is_complete(tmp_path, {"a": ("remote/a", 3)})
    assert not artifacts._is_complete(tmp_path, {"a": ("remote/a", 2)})
    assert not artifacts._is_complete(tmp_path, {"a": ("remote/a", None), "b": ("remote/b", None)})


def test_only_a_cache_folder_that_nobody_else_can_write_is_used(run_dir, monkeypatch, tmp_path):
    def refusal():
        with pytest.raises(ArtifactError) as caught:
            ensure_local(run_dir.address("models/m"), "captioner.checkpoint", run_dir)
        return str(caught.value)

    for mode in (0o720, 0o702, 0o777):
        cache_folder().mkdir(exist_ok=True)
        cache_folder().chmod(mode)
        assert refusal().startswith(f"captioner.checkpoint: {cache_folder()} is not a folder that only you")
    cache_folder().rmdir()
    cache_folder().symlink_to(tmp_path)
    assert "is not a folder that only you can write" in refusal()
    cache_folder().unlink()
    cache_folder().write_text("")
    assert "cannot use" in refusal()
    cache_folder().unlink()
    cache_folder().mkdir(mode=0o755)
    owner = os.getuid()
    folder = cache_folder()
    monkeypatch.setattr(artifacts, "cache_folder", lambda: folder)
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    assert "is not a folder that only you can write" in refusal()
    monkeypatch.setattr(os, "getuid", lambda: owner)
    ensure_local(run_dir.address("models/m"), "captioner.checkpoint", run_dir)
    assert cache_folder().stat().st_mode & 0o777 == 0o700


def test_a_copy_without_digests_is_made_again(run_dir):
    copy = Path(ensure_local(run_dir.address("models/m"), "model", run_dir))
    artifacts._digests_file(copy).unlink()
    (copy / "model.safetensors").write_bytes(b"planted")
    ensure_local(run_dir.address("models/m"), "model", run_dir)
    assert (copy / "model.safetensors").read_bytes() == b"weights"


def test_size_of_a_model_is_that_of_its_files(tmp_path, run_dir):
    (tmp_path / "m/part").mkdir(parents=True)
    (tmp_path / "m/a.bin").write_bytes(b"1" * 70)
    (tmp_path / "m/part/b.bin").write_bytes(b"1" * 30)
    assert measure_artifact(str(tmp_path / "m"), "filter.checkpoint") == 100
    assert measure_artifact(str(tmp_path / "m/a.bin"), "filter.checkpoint") == 70
    assert measure_artifact(run_dir.address("models/m"), "filter.checkpoint", run_dir) == len(b"weights{}")
    assert measure_artifact("hf://org/name", "filter.checkpoint") is None
    with pytest.raises(ArtifactError, match=r"filter\.checkpoint: nothing at"):
        measure_artifact(str(tmp_path / "none"), "filter.checkpoint")
