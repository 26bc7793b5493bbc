"""Packages from registries, with fake tools: nothing is downloaded here."""

import zipfile
from pathlib import Path

import pytest

from capfilt.pipeline.corpora import packages
from capfilt.pipeline.corpora.packages import (
    PackageError,
    download_wheel,
    extract_members,
    get_debian_package,
)


def install_tool(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a shell script before the real tool of this name in PATH."""
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_missing_tool_is_an_error_of_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(
        PackageError,
        match=r"^apt-get is not installed, but needed for apt-get download none-such; put its .*by hand$",
    ):
        get_debian_package("none-such", tmp_path)
    with pytest.raises(PackageError, match=r"is not installed, but needed for .* -m pip; put none_such-1-"):
        download_wheel("none-such==1", tmp_path)


def test_error_of_a_tool_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_1_all.deb").write_bytes(b"not an archive")
    script = "echo first >&2\necho it is not an archive >&2\nexit 2"
    install_tool(tmp_path, "dpkg", script, monkeypatch)
    with pytest.raises(PackageError, match="failed: it is not an archive; put its files into"):
        get_debian_package("broken", tmp_path)
    assert not (tmp_path / "broken").exists()


def test_package_lists_are_updated_before_the_second_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = (
        f'if [ "$1" = update ]; then touch {tmp_path}/updated; exit 0; fi\n'
        f"if [ -e {tmp_path}/updated ]; then touch thing_1_all.deb; exit 0; fi\n"
        "echo no such package >&2; exit 100"
    )
    install_tool(tmp_path, "apt-get", script, monkeypatch)
    install_tool(tmp_path, "dpkg", 'touch "$3/content"', monkeypatch)
    assert (get_debian_package("thing", tmp_path / "cache") / "content").is_file()


def test_relative_cache_is_below_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/thing_1_all.deb").write_bytes(b"an archive")
    install_tool(tmp_path, "dpkg", 'cp "$2" "$3/content"', monkeypatch)
    monkeypatch.chdir(tmp_path)
    assert (get_debian_package("thing", Path("cache")) / "content").read_bytes() == b"an archive"
    assert (tmp_path / "cache/thing/content").is_file()


def test_archive_without_a_member_is_not_extracted(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as content:
        content.writestr("m/one", "1")
    with pytest.raises(PackageError, match="another version"):
        extract_members(tmp_path / "a.whl", "m", ("one", "two"), tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.whl"]
    assert (extract_members(tmp_path / "a.whl", "m", ("one",), tmp_path / "out") / "one").read_text() == "1"
