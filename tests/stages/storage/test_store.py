import errno
import multiprocessing
import os
import pickle

import pytest

from capfilt.stages.storage.store import FileEntry, Store, sha256
from tests.runs import walk


def test_put_returns_what_a_record_lists(tmp_path):
    store = Store(str(tmp_path))
    entry = store.put("a/b.bin", b"hello")
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert entry == FileEntry(name="b.bin", bytes=5, sha256=digest)
    assert store.read("a/b.bin") == b"hello"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_write_that_fails_leaves_the_old_content_and_no_temporary(tmp_path, monkeypatch, code):
    store = Store(str(tmp_path))
    store.put("x", b"old")

    def fails(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    for write in (store.put, store.create):
        with pytest.raises(OSError, match=os.strerror(code)):
            write("x" if write == store.put else "y", b"new")
    assert store.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def _create(arguments):
    url, number = arguments
    return Store(url).create("record.json", str(number).encode())


def test_create_has_one_winner_among_processes(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.map(_create, [(str(tmp_path), n) for n in range(12)], chunksize=1)
    assert sum(won) == 1
    assert Store(str(tmp_path)).read("record.json") == str(won.index(True)).encode()
    assert os.listdir(tmp_path) == ["record.json"]


def test_list_names_files_of_one_folder_without_temporaries(tmp_path):
    store = Store(str(tmp_path))
    for name in ("c/2.json", "c/1.json", "c/1.tar", "c/d/3.json", "c/.tmp-4.json"):
        store.put(name, b"")
    assert store.list("c", ".json") == ["1.json", "2.json"]
    assert store.list("nowhere") == []
    assert list(walk(store, "c/d")) == ["c/d/3.json"]


def test_store_survives_pickling_and_joins_folders(tmp_path):
    store = pickle.loads(pickle.dumps(Store(str(tmp_path)) / "sub"))
    store.put("x", b"1")
    assert (tmp_path / "sub" / "x").read_bytes() == b"1"
    store.remove("x")
    store.remove("x")
    assert not store.exists("x")


def test_what_writes_that_died_have_left_is_removed_where_nobody_writes(tmp_path):
    store = Store(str(tmp_path))
    for name in ("a/.tmp-1.tar-0f", "a/b/.tmp-1.json-0f", "a/1.tar", ".tmp-config.yaml-0f", ".tmp-probe-0f"):
        store.put(name, b"")
    store.remove_temporaries("a")
    store.remove_temporaries("", "config.yaml")
    store.remove_temporaries("nowhere")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a/b/.tmp-1.json-0f", "a/1.tar", ".tmp-probe-0f"}


def test_memory_filesystem_keeps_the_same_promises():
    store = Store("memory://capfilt-test")
    store.put("a/x", b"1")
    assert store.read("a/x") == b"1" and store.list("a") == ["x"]
    assert store.address("a/x") == "memory://capfilt-test/a/x"
    assert sha256(b"1") == store.put("a/x", b"1").sha256


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_move_replaces_and_can_be_done_twice(kind, tmp_path):
    store = Store(str(tmp_path) if kind == "disk" else "memory://capfilt-move")
    store.put("there/x", b"old")
    store.put("here/y", b"new")
    for _ in range(2):
        store.move("here/y", "there/x")
        assert store.read("there/x") == b"new" and not store.exists("here/y")
    with pytest.raises(FileNotFoundError):
        store.move("here/y", "there/z")
