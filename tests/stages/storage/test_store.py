"""The store on a local disk and on fsspec's filesystem in memory."""

import errno
import multiprocessing
import os
import pickle

import pytest

from capfilt.models.disk_errors import ADVICE
from capfilt.stages.storage.listing import file_sizes, modification_times
from capfilt.stages.storage.store import FileEntry, Store, StoreError, sha256
from tests.runs import walk


def test_put_returns_the_entry_of_the_file(tmp_path):
    store = Store(str(tmp_path))
    entry = store.put("a/b.bin", b"hello")
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert entry == FileEntry(name="b.bin", bytes=5, sha256=digest)
    assert store.read("a/b.bin") == b"hello"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch, code):
    store = Store(str(tmp_path))
    store.put("x", b"old")

    def fail(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fail)
    for write, name in ((store.put, "x"), (store.create, "y")):
        with pytest.raises((OSError, StoreError)) as raised:
            write(name, b"new")
        if code == errno.EIO:
            assert raised.value.errno == code
        else:
            assert str(raised.value).startswith(
                f"{tmp_path}/{name}: cannot write it ({os.strerror(code)}); {ADVICE[code]}"
            )
    assert store.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def create_record(arguments):
    url, number = arguments
    return Store(url).create("record.json", str(number).encode())


def test_create_has_one_winner_among_processes(tmp_path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        won = pool.map(create_record, [(str(tmp_path), n) for n in range(12)], chunksize=1)
    assert sum(won) == 1
    assert Store(str(tmp_path)).read("record.json") == str(won.index(True)).encode()
    assert os.listdir(tmp_path) == ["record.json"]


def test_list_returns_the_files_of_one_folder_without_temporaries(tmp_path):
    store = Store(str(tmp_path))
    for name in ("c/2.json", "c/1.json", "c/1.tar", "c/d/3.json", "c/.tmp-4.json"):
        store.put(name, b"")
    assert store.list("c", ".json") == ["1.json", "2.json"]
    assert store.list("nowhere") == []
    assert list(walk(store, "c/d")) == ["c/d/3.json"]


def test_a_pickled_store_opens_the_same_folder(tmp_path):
    store = pickle.loads(pickle.dumps(Store(str(tmp_path)) / "sub"))
    store.put("x", b"1")
    assert (tmp_path / "sub" / "x").read_bytes() == b"1"
    store.remove("x")
    store.remove("x")
    assert not store.exists("x")


def test_temporaries_of_terminated_writes_are_removed_from_one_folder(tmp_path):
    store = Store(str(tmp_path))
    for name in ("a/.tmp-1.tar-0f", "a/b/.tmp-1.json-0f", "a/1.tar", ".tmp-config.yaml-0f", ".tmp-probe-0f"):
        store.put(name, b"")
    store.remove_temporaries("a")
    store.remove_temporaries("", "config.yaml")
    store.remove_temporaries("nowhere")
    remaining = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert remaining == {"a/b/.tmp-1.json-0f", "a/1.tar", ".tmp-probe-0f"}


def test_other_filesystems_are_supported():
    store = Store("memory://capfilt-test")
    store.put("a/x", b"1")
    assert store.read("a/x") == b"1" and store.list("a") == ["x"]
    assert store.address("a/x") == "memory://capfilt-test/a/x"
    assert sha256(b"1") == store.put("a/x", b"1").sha256


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_move_replaces_its_target_and_can_be_repeated(kind, tmp_path):
    store = Store(str(tmp_path) if kind == "disk" else "memory://capfilt-move")
    store.put("there/x", b"old")
    store.put("here/y", b"new")
    for _ in range(2):
        store.move("here/y", "there/x")
        assert store.read("there/x") == b"new" and not store.exists("here/y")
    with pytest.raises(FileNotFoundError):
        store.move("here/y", "there/z")


@pytest.mark.parametrize("url", ["disk", "memory://capfilt-find"])
def test_absent_files_are_none_or_an_error(url, tmp_path):
    store = Store(str(tmp_path) if url == "disk" else url)
    store.put_json("a.json", {"é": [1]})
    assert store.find("a.json") == store.read("a.json") == '{\n "é": [\n  1\n ]\n}\n'.encode()
    assert store.read_json("a.json") == store.find_json("a.json") == {"é": [1]}
    assert store.find("b.json") is None and store.find_json("b.json") is None
    for read in (store.read, store.read_json):
        with pytest.raises(FileNotFoundError):
            read("b.json")


def test_an_interrupted_removal_leaves_no_record(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    for name in ("a/1.json", "a/1.tar", "a/b/2.json"):
        store.put(name, b"{}")

    def fail(*_, **__):
        raise OSError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", fail)
        with pytest.raises(OSError, match="interrupted"):
            store.remove("a")
    assert list(walk(store)) == ["a/1.tar"]
    store.remove("a")
    store.remove("a")
    assert not store.exists("a")


def test_an_address_without_filesystem_is_one_line():
    with pytest.raises(StoreError, match=r"^gopher://x: no filesystem for this address \("):
        Store("gopher://x").read("a")


def test_walk_finds_the_files_of_all_folders_without_temporaries(tmp_path):
    store = Store(str(tmp_path))
    for name in ("c/2.json", "c/d/e/1.tar", "c/.tmp-4.json", "c/d/.tmp-5", "other/1"):
        store.put(name, b"")
    assert store.walk("c") == ["c/2.json", "c/d/e/1.tar"] and store.walk("absent") == []


def test_a_taken_file_replaces_an_existing_one_and_stays_when_the_other_is_replaced(tmp_path):
    source, store = Store(str(tmp_path / "a")), Store(str(tmp_path / "b"))
    source.put("c/x", b"first")
    store.put("c/x", b"old")
    for _ in range(2):
        store.take(source, "c/x")
        assert os.path.samefile(source.path("c/x"), store.path("c/x"))
    assert os.listdir(tmp_path / "b/c") == ["x"], "no temporary name is left"
    source.put("c/x", b"second")
    assert (source.read("c/x"), store.read("c/x")) == (b"second", b"first")
    with pytest.raises(FileNotFoundError):
        store.take(source, "c/absent")


def test_put_file_writes_the_content_of_a_local_file(tmp_path):
    source, store = tmp_path / "source", Store(str(tmp_path / "store"))
    source.write_bytes(b"content" * 1000)
    store.put("folder/file", b"before")
    entry = store.put_file("folder/file", str(source))
    assert (entry.name, entry.bytes, entry.sha256) == ("file", 7000, sha256(b"content" * 1000))
    assert store.read("folder/file") == source.read_bytes()
    assert [path.name for path in (tmp_path / "store/folder").iterdir()] == ["file"]


def test_modification_times_are_those_of_one_folder(tmp_path):
    store = Store(str(tmp_path))
    for name in ("a.json", "b.json", "c.tar", "folder/d.json", ".tmp-e.json"):
        store.put(name, b"x")
    os.utime(tmp_path / "a.json", (5, 1000.5))
    times = modification_times(store, "", ".json")
    assert sorted(times) == ["a.json", "b.json"] and times["a.json"] == 1000.5
    assert modification_times(store, "absent") == {}


def test_sizes_are_those_of_the_files_of_one_folder(tmp_path):
    for store in (Store(str(tmp_path)), Store("memory://sizes")):
        for name, data in (("f/a.tar", b"123"), ("f/b.json", b""), ("f/deeper/c", b"1"), ("d", b"12")):
            store.put(name, data)
        assert file_sizes(store, "f") == {"a.tar": 3, "b.json": 0}
        assert file_sizes(store, "absent") == {}
    (tmp_path / "f/.tmp-a.tar-0").write_bytes(b"1")
    assert file_sizes(Store(str(tmp_path)), "f") == {"a.tar": 3, "b.json": 0}
