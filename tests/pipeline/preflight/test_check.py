"""What `capfilt check` finds out, and how it prints it."""

import io
import os
from types import SimpleNamespace

import pytest

from capfilt.pipeline.config.load import load_config, parse_config
from capfilt.pipeline.config.shipped import resolve_shipped
from capfilt.pipeline.console.streams import SafeConsole
from capfilt.pipeline.preflight import check as module
from capfilt.pipeline.preflight.changes import changed_keys
from capfilt.pipeline.preflight.check import find_devices, run_preflight, try_store
from capfilt.pipeline.preflight.page import format_bytes, print_preflight
from capfilt.stages.storage.store import Store, StoreError
from tests.runs import walk
from tests.tiny import tiny_data


def config_of(tmp_path, **data):
    path = tmp_path / "urls.csv"
    rows = [f"https://{'a' if i % 4 else 'b'}.example.org/{'x' * 100}{i}.jpg,a dog" for i in range(100)]
    path.write_text("\n".join(["url,caption", *rows]))
    web = {"kind": "web", "rows": {"manifest": str(path)}}
    return parse_config({"run": {"dir": str(tmp_path / "deep/run")}, "sources": {"web": web}, **data}, "test")


def page(found, *, full=False, width=80):
    stream = io.StringIO()
    print_preflight(SafeConsole(file=stream, width=width), found, full=full)
    return stream.getvalue()


def test_preflight_of_a_download(tmp_path, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    found = run_preflight(config_of(tmp_path, fetch={"per_host_per_second": 3, "robots": False}))
    web = found.sources["web"].web
    assert (web.rows, web.hosts, web.commonest) == (100, 2, [("a.example.org", 75), ("b.example.org", 25)])
    assert (web.per_host_per_second, web.robots, web.contact) == (3, False, None)
    assert found.nodes == {"fetch": {"state": "new", "needs": []}} and found.models == {}
    assert found.store["url"] == str(tmp_path / "deep/run") and found.store["free_bytes"] > 0
    assert found.devices["cpus"] == len(os.sched_getaffinity(0)) and found.devices["cluster"] is None
    assert os.listdir(tmp_path) == ["urls.csv"]  # the run directory was not made


def test_page_fits_in_80_columns(tmp_path):
    lines = page(run_preflight(config_of(tmp_path))).splitlines()
    text = "\n".join(lines)
    size = format_bytes((tmp_path / "urls.csv").stat().st_size)
    assert lines[0] == f"web           100 rows in 1 file, {size}, kind web"
    assert "columns url (url), caption (caption)" in text and "'a dog'" in text
    assert "2 hosts in 100 rows: a.example.org 75%, b.example.org 25%" in text
    assert "at most 50 requests/s to a host" in text and "robots.txt is obeyed" in text
    before_config = lines[: lines.index("config (what differs from the defaults; --full shows every key)")]
    assert all(len(line) <= 80 or line.startswith("store") for line in before_config)
    assert "grace_seconds" not in text and "grace_seconds" in page(
        run_preflight(config_of(tmp_path)), full=True
    )


def test_rows_that_the_run_makes_are_announced(tmp_path):
    found = run_preflight(parse_config(tiny_data(tmp_path), "tiny"))
    assert found.sources["human"].found is None
    assert "human         its files are made when the run starts, kind human" in page(found)


@pytest.mark.parametrize("name", ["quickstart", "recipes/vit-b-14m", "recipes/reference-14m", "clipart"])
def test_changed_keys_make_an_equal_config(name):
    config = load_config(resolve_shipped(f"configs/{name}.yaml"))
    changed = changed_keys(config)
    assert parse_config(changed, "test") == config
    assert "cluster" not in changed


def test_defaults_are_not_among_the_changed_keys(tmp_path):
    config = config_of(tmp_path)
    manifest = str(tmp_path / "urls.csv")
    assert changed_keys(config) == {
        "run": {"dir": str(tmp_path / "deep/run")},
        "sources": {"web": {"kind": "web", "rows": {"manifest": manifest}}},
    }
    config = config_of(tmp_path, fetch={"retries": 2, "deadline_s": 31})
    assert changed_keys(config)["fetch"] == {"deadline_s": 31.0}


def test_store_is_left_as_it_was(tmp_path):
    store = Store(str(tmp_path / "run"))
    store.put("config.yaml", b"x")
    assert try_store(store)["free_bytes"] > 0
    assert list(walk(store)) == ["config.yaml"]
    memory = Store("memory://preflight/run")
    assert try_store(memory) == {"url": "memory://preflight/run", "free_bytes": None}


def test_unusable_store_is_one_line_and_leaves_no_folder(tmp_path, monkeypatch):
    def fail(self, name, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Store, "create", fail)
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"^run\.dir .*/a/b: cannot write there"):
        try_store(Store(str(tmp_path / "a/b")))
    assert os.listdir(tmp_path) == ["file"]


def test_devices_of_a_machine_with_gpus(tmp_path, monkeypatch):
    answer = SimpleNamespace(stdout="NVIDIA H100, 81559 MiB\nNVIDIA H100, 81559 MiB\n")
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(module.subprocess, "run", lambda *args, **options: answer)
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    config = config_of(tmp_path)
    found = run_preflight(config)
    assert found.devices["gpus"] == ["NVIDIA H100, 81559 MiB"] * 2
    assert "2 × NVIDIA H100, 81559 MiB; the run uses the cluster at head:6379" in page(found, width=120)
    local = config.model_copy(update={"cluster": module.replace(config.cluster, address="local")})
    assert find_devices(local)["cluster"] is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 bytes"), (999, "999 bytes"), (1200, "1.2 kB"), (34_000_000, "34 MB"), (5 * 10**12, "5.0 TB")],
)
def test_sizes(size, text):
    assert format_bytes(size) == text
