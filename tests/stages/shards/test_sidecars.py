"""What a user is told about image tars without texts."""

import pytest

from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards import sidecars as module
from capfilt.stages.shards.sidecars import describe_lack, find_first_tar, read_sidecars
from capfilt.stages.storage.store import Store
from tests.stages.shards.test_odd_tars import make_tar

PLAIN = ManifestConfig()


def write(tmp_path, *members):
    (tmp_path / "a.tar").write_bytes(make_tar(*members))
    return f"file://{tmp_path}/a.tar"


@pytest.mark.parametrize(
    ("json", "keys", "said"),
    [
        (
            b'{"url": "u", "caption": 7, "width": 9}',
            ["caption"],
            "of which caption has numbers, which are no",
        ),
        (b'{"Text": [1, 2.5], "width": 9}', ["Text"], "of which Text has numbers"),
        (
            b'{"label": "dog"}',
            [],
            "its JSON has the keys label; texts are read from members that end in .txt",
        ),
        (b'{"caption": null}', [], "its JSON has the keys caption; texts"),
        (
            b"[7]",
            [],
            "end in .jpg, .json; texts are read from members that end in .txt, .text, .caption, and",
        ),
    ],
)
def test_keys_of_json_without_texts(tmp_path, json, keys, said):
    address = write(tmp_path, ("0.jpg", b"a"), ("0.json", json))
    found = read_sidecars(address, PLAIN)
    assert found.lacks_texts and list(found.number_keys) == keys
    line = describe_lack(found, PLAIN, "sources.web.rows")
    assert line.startswith(f"the members of {address} end in .jpg, .json;"[:-1]) and said in line
    assert "set sources.web.rows.caption_column to a key" in line and "\n" not in line


def test_keys_of_all_samples_are_named_and_one_text_is_enough(tmp_path):
    members = [
        ("0.jpg", b"a"),
        ("0.json", b'{"a": 1}'),
        ("1.jpg", b"b"),
        ("1.cap", b"x"),
        ("1.json", b'{"b": 1}'),
    ]
    found = read_sidecars(write(tmp_path, *members), PLAIN)
    assert (list(found.endings), list(found.keys)) == ([".jpg", ".json", ".cap"], ["a", "b"])
    assert found.lacks_texts and [row["texts"] for row in found.rows] == [[], []]
    named = ManifestConfig(caption_column="cap")
    found = read_sidecars(write(tmp_path, *members), named)
    assert not found.lacks_texts and "members that end in .cap," in describe_lack(found, named, "s")
    numbers = read_sidecars(write(tmp_path, *members), ManifestConfig(caption_column="B"))
    assert list(numbers.number_keys) == ["b"]


def test_only_the_beginning_of_a_tar_is_read(tmp_path, monkeypatch):
    members = [(f"{n}.{kind}", b"x" * 9) for n in range(9) for kind in ("jpg", "cap")]
    address = write(tmp_path, *members)
    monkeypatch.setattr(module, "HEAD_BYTES", 5 * 2048 + 700)  # two blocks of 512 bytes a member
    found = read_sidecars(address, PLAIN)
    assert [row["url"].rpartition("#")[2] for row in found.rows] == ["0", "1", "2", "3", "4"]
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[: 3 * 2048 + 700])
    assert [row.get("status") for row in read_sidecars(address, PLAIN).rows] == [None, None, None, "bad_tar"]


def test_the_first_tar_of_a_manifest(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("url,caption\nhttp://h.example/1,x\n")
    for name in ("b.tar", "c.tar"):
        (tmp_path / "in" / name).write_bytes(make_tar(("0.jpg", b"a")))
    for files, expected in ((("a.csv", "b.tar", "c.tar"), "b.tar"), (("a.csv",), None)):
        store = Store(str(tmp_path / f"run{len(files)}"))
        config = ManifestConfig(manifest=tuple(str(tmp_path / "in" / name) for name in files))
        index = build_index(config, store, source="web")
        found = find_first_tar(store, index)
        assert found is None if expected is None else found.endswith(f"/in/{expected}")
