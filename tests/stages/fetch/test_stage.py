"""The fetch stage and its rows: folders and bytes instead of urls, order, unexpected exceptions."""

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest

from capfilt.cluster.chain.isolation import RowIsolator
from capfilt.pipeline.nodes.chain import ISOLATION
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig, StoredImage, decode_and_resize
from tests.stages.fetch.hostile_server import JPEG, HostileServer, fetch_config, fetch_one, make_batch

pytestmark = pytest.mark.usefixtures("loopback_only")


def test_output_does_not_depend_on_order_and_concurrency(server: HostileServer) -> None:
    urls = [
        server.url(p) for p in ("/ok.jpg", "/cut.jpg", "/gzip", "/status/404", "/html", "/chain/3", "/short")
    ] * 5
    first = Fetch(fetch_config())(make_batch(*urls)).to_pylist()
    second = Fetch(fetch_config(concurrency=2, per_host=1, decode_threads=1, deadline_s=5))(
        make_batch(*urls[::-1])
    ).to_pylist()
    first_outcomes = [{k: v for k, v in row.items() if k not in ("key", "caption")} for row in first]
    second_outcomes = [{k: v for k, v in row.items() if k not in ("key", "caption")} for row in second[::-1]]
    assert first_outcomes == second_outcomes


def test_relative_urls_are_joined_to_base_url(server: HostileServer) -> None:
    row = fetch_one("chain/1", base_url=server.url(""))
    assert row["status"] == "success" and row["url"] == "chain/1"


def test_folder_of_images(tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "val").mkdir(parents=True)
    (root / "val/a b#1.jpg").write_bytes(JPEG)
    (root / "empty.jpg").touch()
    (root / "big.jpg").write_bytes(bytes(1_000_001))
    (root / "limit.jpg").write_bytes(JPEG.ljust(1_000_000, b"\0"))
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    expected = {
        "val/a b#1.jpg": "success",
        "./val/../val/a b#1.jpg": "success",
        "val/none.jpg": "missing_file",
        "val": "missing_file",
        "val/a b#1.jpg/x": "missing_file",
        "../secret.jpg": "bad_url",
        "val/../../secret.jpg": "bad_url",
        str(tmp_path / "secret.jpg"): "bad_url",
        "empty.jpg": "empty_body",
        "big.jpg": "too_big",
        "limit.jpg": "success",
    }
    for address in (str(root), root.as_uri()):
        out = Fetch(fetch_config(image_root=address))(make_batch(*expected)).to_pylist()
        assert {row["url"]: row["status"] for row in out} == expected, [r["error_message"] for r in out]


def test_folder_behind_fsspec() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/fetch-test/a.jpg", JPEG)
    out = Fetch(fetch_config(image_root="memory://fetch-test"))(make_batch("a.jpg", "b.jpg", "../a.jpg"))
    assert out["status"].to_pylist() == ["success", "missing_file", "bad_url"]


def test_images_from_a_tar() -> None:
    samples = [{"image": JPEG}, {"image": b"<html>"}, {"error_message": "the sample has no image member"}]
    batch = pa.concat_tables([make_batch("a.tar#1", **row) for row in samples])
    out = Fetch(fetch_config())(batch).to_pylist()
    assert [row["status"] for row in out] == ["success", "not_image", "missing_file"]
    assert out[2]["error_message"] == "the sample has no image member"


def test_progress_is_reported_after_every_row() -> None:
    calls: list[int] = []
    stage = Fetch(fetch_config())
    stage.on_progress(lambda: calls.append(1))
    stage(make_batch("ftp://a/b", None, "mailto:x"))
    assert len(calls) == 3


def test_unexpected_exception_fails_only_its_row(
    server: HostileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes, config: DecodeConfig) -> None:
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr("capfilt.stages.fetch.outcomes.decode_and_resize", broken)
    out = Fetch(fetch_config())(make_batch(server.url("/ok.jpg"), server.url("/status/404"))).to_pylist()
    assert [row["status"] for row in out] == ["internal", "http_404"]
    assert out[0]["error_message"] == "ZeroDivisionError: of all things"


def test_out_of_memory_fails_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage raises, so that fewer rows are tried at a time; only a row that is too large itself fails."""
    left = 2

    def decode(data: bytes, config: DecodeConfig) -> StoredImage:
        nonlocal left
        left -= 1
        if left >= 0 or data == b"huge":
            raise MemoryError("no room")
        return decode_and_resize(data, config)

    monkeypatch.setattr("capfilt.stages.fetch.outcomes.decode_and_resize", decode)
    batch = pa.concat_tables([make_batch(f"a.tar#{n}", image=JPEG) for n in range(3)])
    with pytest.raises(MemoryError, match="no room"):
        Fetch(fetch_config())(batch)
    out = RowIsolator("fetch", Fetch(fetch_config()), ISOLATION).run(batch)
    assert out["status"].to_pylist() == ["success"] * 3
    batch = pa.concat_tables([batch, make_batch("a.tar#3", image=b"huge")])
    out = RowIsolator("fetch", Fetch(fetch_config()), ISOLATION).run(batch)
    assert out["status"].to_pylist() == ["success"] * 3 + ["internal"]
    assert out["error_message"].to_pylist()[3] == "MemoryError: no room"


def test_inside_a_running_event_loop(server: HostileServer) -> None:
    async def notebook() -> pa.Table:
        return Fetch(fetch_config())(make_batch(server.url("/ok.jpg")))

    assert asyncio.run(notebook())["status"].to_pylist() == ["success"]


def test_no_rows() -> None:
    assert Fetch(fetch_config())(make_batch()).num_rows == 0
