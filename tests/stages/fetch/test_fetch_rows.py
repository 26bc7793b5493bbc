"""The fetch stage and its rows: folders and bytes instead of urls, order, errors nobody foresaw, use in a notebook."""

import asyncio
from pathlib import Path

import pyarrow as pa
import pytest

from capfilt.cluster.chain.isolation import RowIsolator
from capfilt.pipeline.nodes.chain import ISOLATION
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig, StoredImage, decode_and_resize
from tests.stages.fetch.hostile import JPEG, Hostile, config, fetch_one, rows

pytestmark = pytest.mark.usefixtures("loopback_only")


def test_same_bytes_whatever_the_order_and_the_concurrency(server: Hostile) -> None:
    urls = [
        server.url(p) for p in ("/ok.jpg", "/cut.jpg", "/gzip", "/status/404", "/html", "/chain/3", "/short")
    ] * 5
    first = Fetch(config())(rows(*urls)).to_pylist()
    second = Fetch(config(concurrency=2, per_host=1, decode_threads=1, deadline_s=5))(
        rows(*urls[::-1])
    ).to_pylist()
    keep = [{k: v for k, v in row.items() if k not in ("key", "caption")} for row in first]
    again = [{k: v for k, v in row.items() if k not in ("key", "caption")} for row in second[::-1]]
    assert keep == again


def test_relative_urls_are_joined(server: Hostile) -> None:
    row = fetch_one("chain/1", base_url=server.url(""))
    assert row["status"] == "success" and row["url"] == "chain/1"


def test_folder_of_images(tmp_path: Path) -> None:
    root = tmp_path / "images"
    (root / "val").mkdir(parents=True)
    (root / "val/a b#1.jpg").write_bytes(JPEG)
    (root / "empty.jpg").touch()
    (root / "big.jpg").write_bytes(bytes(1_000_001))
    (tmp_path / "secret.jpg").write_bytes(JPEG)
    wanted = {
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
    }
    for address in (str(root), root.as_uri()):
        out = Fetch(config(image_root=address))(rows(*wanted)).to_pylist()
        assert {row["url"]: row["status"] for row in out} == wanted, [r["error_message"] for r in out]


def test_folder_behind_fsspec() -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/fetch-test/a.jpg", JPEG)
    out = Fetch(config(image_root="memory://fetch-test"))(rows("a.jpg", "b.jpg", "../a.jpg"))
    assert out["status"].to_pylist() == ["success", "missing_file", "bad_url"]


def test_bytes_that_came_with_a_tar() -> None:
    tar = [{"image": JPEG}, {"image": b"<html>"}, {"error_message": "the sample has no image member"}]
    batch = pa.concat_tables([rows("a.tar#1", **row) for row in tar])
    out = Fetch(config())(batch).to_pylist()
    assert [row["status"] for row in out] == ["success", "not_image", "missing_file"]
    assert out[2]["error_message"] == "the sample has no image member"


def test_progress_is_told_after_every_row() -> None:
    told: list[int] = []
    stage = Fetch(config())
    stage.on_progress(lambda: told.append(1))
    stage(rows("ftp://a/b", None, "mailto:x"))
    assert len(told) == 3


def test_unforeseen_exception_is_the_rows_not_the_shards(
    server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes, config: DecodeConfig) -> None:
        raise ZeroDivisionError("of all\nthings")

    monkeypatch.setattr("capfilt.stages.fetch.outcomes.decode_and_resize", broken)
    out = Fetch(config())(rows(server.url("/ok.jpg"), server.url("/status/404"))).to_pylist()
    assert [row["status"] for row in out] == ["internal", "http_404"]
    assert out[0]["error_message"] == "ZeroDivisionError: of all things"


def test_a_machine_without_memory_ends_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage raises, so that fewer rows are tried at once; only one that has no room alone ends."""
    left = 2

    def narrow(data: bytes, config: DecodeConfig) -> StoredImage:
        nonlocal left
        left -= 1
        if left >= 0 or data == b"huge":
            raise MemoryError("no room")
        return decode_and_resize(data, config)

    monkeypatch.setattr("capfilt.stages.fetch.outcomes.decode_and_resize", narrow)
    batch = pa.concat_tables([rows(f"a.tar#{n}", image=JPEG) for n in range(3)])
    with pytest.raises(MemoryError, match="no room"):
        Fetch(config())(batch)
    out = RowIsolator("fetch", Fetch(config()), ISOLATION).run(batch)
    assert out["status"].to_pylist() == ["success"] * 3
    batch = pa.concat_tables([batch, rows("a.tar#3", image=b"huge")])
    out = RowIsolator("fetch", Fetch(config()), ISOLATION).run(batch)
    assert out["status"].to_pylist() == ["success"] * 3 + ["internal"]
    assert out["error_message"].to_pylist()[3] == "MemoryError: no room"


def test_inside_a_running_loop(server: Hostile) -> None:
    async def notebook() -> pa.Table:
        return Fetch(config())(rows(server.url("/ok.jpg")))

    assert asyncio.run(notebook())["status"].to_pylist() == ["success"]


def test_no_rows() -> None:
    assert Fetch(config())(rows()).num_rows == 0


def test_config_mistakes() -> None:
    with pytest.raises(ValueError, match="remove one"):
        config(base_url="http://a/", image_root="/b")
    with pytest.raises(ValueError, match="starts with http"):
        config(base_url="s3://a/")
