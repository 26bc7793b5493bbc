"""Block lists: which urls, hosts and images they block, and errors in their files."""

import gzip
import hashlib
from pathlib import Path

import pytest

from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.fetch.urls.blocklist import block_list_digest, read_block_list
from capfilt.stages.storage.artifacts import ArtifactError
from tests.stages.fetch.hostile_server import JPEG, make_batch
from tests.stages.fetch.http.sites import Site, site_config

pytestmark = pytest.mark.usefixtures("loopback_only", "site_names")


def test_block_lists(tmp_path: Path) -> None:
    with Site() as site:
        lists = [tmp_path / "urls.txt", tmp_path / "more.txt.gz"]
        lists[0].write_text(f"# harmful\n\n{site.url('/bad.jpg', 'a.test')}\nC.test\n")
        lists[1].write_bytes(gzip.compress(hashlib.sha256(JPEG).hexdigest().upper().encode()))
        target = site.url("/bad.jpg", "a.test").encode().hex()
        urls = {
            site.url("/bad.jpg", "a.test"): "blocked",
            site.url("/bad.jpg#part", "A.test"): "blocked",
            site.url("/x", "c.test"): "blocked",
            site.url("/x", "www.c.test"): "blocked",
            site.url(f"/to/{target}", "b.test"): "blocked",
            site.url("/bad.jpg?x", "a.test"): "success",
        }
        stage = Fetch(site_config(blocked=(str(lists[0]),)))
        out = stage(make_batch(*urls)).to_pylist()
        assert {row["url"]: row["status"] for row in out} == urls
        assert not site.hosts["c.test"] and not site.hosts["www.c.test"]
        assert "/bad.jpg" not in site.paths("a.test")
        both = Fetch(site_config(blocked=(lists[0].as_uri(), str(lists[1]))))
        row = both(make_batch(site.url("/fine.jpg", "a.test"))).to_pylist()[0]
        assert row["status"] == "blocked" and row["image"] is None and row["sha256"]
        assert both(make_batch("a.tar#1", image=JPEG))["status"].to_pylist() == ["blocked"]


@pytest.mark.parametrize("line", ["not a host", "ftp://a.test/x", "abc", "a" * 63 + "g", "a" * 63, "a" * 65])
def test_invalid_lines(tmp_path: Path, line: str) -> None:
    path = tmp_path / "list.txt"
    path.write_text(f"a.test\n{line}\n")
    with pytest.raises(
        ArtifactError, match=r"list.txt, line 2: .* is not an http.*; fix the line or comment"
    ):
        read_block_list([str(path)])


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*nowhere.txt"):
        read_block_list([str(tmp_path / "nowhere.txt")])


def test_digest_depends_on_the_entries_only(tmp_path: Path) -> None:
    path, other = tmp_path / "list.txt", tmp_path / "other.txt"
    path.write_text("b.test\na.test\n")
    other.write_text("# same\nA.test\nb.test\n")
    expected = hashlib.sha256(b"a.test\nb.test").hexdigest()[:16]  # stored in the fingerprints of runs
    assert block_list_digest([str(path)]) == block_list_digest([str(other)]) == expected
    other.write_text("c.test\n")
    assert block_list_digest([str(path)]) != block_list_digest([str(other)])
