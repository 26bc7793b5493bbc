"""img2dataset as a backend, and its own shards compared with ours."""

import io
import json
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
from PIL import Image

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.img2dataset import Img2datasetFetch, classify_message
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.rows import CORPUS_SCHEMA, RECEIVED, ROW_SCHEMA, table_of
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.store import Store
from tests.stages.fetch.hostile_server import ADDRESSES, HostileServer, fetch_config, make_batch, make_image

pytestmark = pytest.mark.usefixtures("loopback_only")

MIXED = {  # url or path, status from both backends
    "/ok.jpg": "success",
    "/webp": "success",
    "/cmyk": "success",
    "/ünï cødé.jpg?a=b&c": "success",
    "/chain/3": "success",
    "/status/404": "http_404",
    "/status/410": "http_404",
    "/status/403": "http_403",
    "/status/418": "http_4xx",
    "/status/503": "http_5xx",
    "/loop1": "redirect",
    "/short": "connect",
    "/reset": "connect",
    "/headers": "http_invalid",
    "/not-http": "http_invalid",
    "/empty": "empty_body",
    "/cut.jpg": "decode",
    "/small": "too_small",
    "/banner": "aspect",
    "/late-header": "timeout",
    "/tag/" + b"noai".hex(): "optout",
    "https": "tls",
    "http://nosuch.test/": "dns",
    "http://10.0.0.1/a.jpg": "private_address",
    "http://[::ffff:10.0.0.1]/": "private_address",
    "http://10.1/": "private_address",
    "file:///etc/hostname": "bad_url",
    "ftp://good.test/a.jpg": "bad_url",
    "a/relative.jpg": "bad_url",
    "": "bad_url",
}


@pytest.fixture(autouse=True)
def addresses_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib also looks up addresses."""
    monkeypatch.setitem(ADDRESSES, "127.0.0.1", ["127.0.0.1"])


def img2dataset_config(**changes: Any) -> FetchConfig:
    settings: dict[str, Any] = {
        "backend": "img2dataset",
        "robots": False,
        "per_host_per_second": None,
        "connect_timeout_s": 1.0,
        "retries": 0,
        "concurrency": 16,
        "allow_private": ("127.0.0.1", "good.test"),
        "image": DecodeConfig(min_side=16),
    }
    return FetchConfig(**(settings | changes))


def mixed_rows(server: HostileServer) -> pa.Table:
    """The mixed list, a row without a url, one with an image, one with an error, and a finished one."""
    urls = [server.url(name) if name.startswith("/") else name for name in MIXED]
    # Its Retry-After of an hour holds for the whole host with the backend capfilt.
    urls[list(MIXED).index("/status/503")] = server.url("/status/503", "good.test")
    urls[list(MIXED).index("https")] = server.url("/ok.jpg").replace("http:", "https:")
    batch = make_batch(*urls, None, "a", "b", "c").to_pylist()
    batch[-3]["image"] = make_image(size=(70, 50))
    batch[-2]["error_message"] = "the sample has no image member"
    batch[-1] |= {"status": "http_404", "error_message": "earlier failure"}
    return table_of(batch, ROW_SCHEMA)


def write_shard(batch: pa.Table, folder: Path) -> tuple[pa.Table, list[str]]:
    """Write a batch as a shard; return its Parquet table and the member names of its tar."""
    Write(WriteConfig(run_dir=Store(str(folder)), corpus_fingerprints={"s": "f"}))(batch)
    with tarfile.open(folder / "images/s/000000.tar") as tar:
        return pq.read_table(folder / "corpus/s/000000.parquet"), tar.getnames()


def test_both_backends_give_equal_statuses(server: HostileServer, tmp_path: Path) -> None:
    batch = mixed_rows(server)
    img2dataset = Img2datasetFetch(img2dataset_config())(batch)
    capfilt = Fetch(fetch_config(retries=0, robots=False, host_failures=100))(batch)
    expected = [*MIXED.values(), "bad_url", "success", "missing_file", "http_404"]
    for out in (capfilt, img2dataset):
        assert out.schema == ROW_SCHEMA.append(pa.field(RECEIVED, pa.int64()))
        assert out["status"].to_pylist() == expected, out["error_message"].to_pylist()
        for name in ("key", "source", "shard", "url", "caption", "texts", "truth"):
            assert out[name].equals(batch[name])
        assert [(v is None) for v in out["image"].to_pylist()] == [s != "success" for s in expected]
    for name in ("width", "height", "original_width", "original_height"):
        assert img2dataset[name].equals(capfilt[name])
    pairs = zip(capfilt.to_pylist(), img2dataset.to_pylist(), strict=True)
    assert all(a["sha256"] == b["sha256"] and b["phash"] for a, b in pairs if a["status"] == "success")
    parquet, members = write_shard(img2dataset, tmp_path / "img2dataset")
    parquet_capfilt, members_capfilt = write_shard(capfilt, tmp_path / "capfilt")
    assert parquet.schema.equals(parquet_capfilt.schema) and members == members_capfilt


def test_differences(server: HostileServer) -> None:
    """The known defects of docs/fetching.md."""
    paths = ("/html", "/exif/6", "/16-bit", "/private/a.jpg")
    batch = make_batch(*(server.url(path) for path in paths))
    page, rotated, deep, private = Img2datasetFetch(img2dataset_config())(batch).to_pylist()
    assert page["status"] == "decode"
    assert (rotated["width"], rotated["height"]) == (64, 48)  # upright it is 48 x 64
    with Image.open(io.BytesIO(deep["image"])) as image:
        assert image.convert("RGB").getpixel((1, 1)) != (220, 30, 40)
    assert private["status"] == "success"
    assert Fetch(fetch_config())(batch)["status"].to_pylist() == ["not_image", "success", "success", "robots"]


def test_sizes_equal_those_of_backend_capfilt(server: HostileServer) -> None:
    for resize, expected in (("shorter", (42, 32)), ("longer", (32, 24))):
        image = DecodeConfig(min_side=16, resize=resize, size=32, format="webp")  # type: ignore[arg-type]
        both = (Fetch(fetch_config(image=image)), Img2datasetFetch(img2dataset_config(image=image)))
        for (row,) in (stage(make_batch(server.url("/ok.jpg"))).to_pylist() for stage in both):
            assert row["image"][8:12] == b"WEBP"
            assert (row["width"], row["height"]) == pytest.approx(expected, abs=1)
            assert (row["original_width"], row["original_height"]) == (64, 48)


def test_user_agent_and_standard_output(server: HostileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original resizer redirects the process's file descriptors 1 and 2 for every image."""
    redirected: list[Any] = []
    monkeypatch.setattr(os, "dup2", lambda *which: redirected.append(which))
    stage = pickle.loads(pickle.dumps(Img2datasetFetch(img2dataset_config())))
    assert stage(make_batch(server.url("/ok.jpg")))["status"].to_pylist() == ["success"]
    assert "capfilt" in server.headers["user-agent"]
    assert redirected == []


@pytest.mark.parametrize("retries", [0, 2])
def test_number_of_retries(server: HostileServer, retries: int) -> None:
    server.requests.clear()
    stage = Img2datasetFetch(img2dataset_config(retries=retries))
    assert stage(make_batch(server.url("/status/500")))["status"].to_pylist() == ["http_5xx"]
    assert server.requests["/status/500"] == retries + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robots": True}, "does not support robots: set robots: false"),
        ({"per_host_per_second": 5.0}, "does not support per_host_per_second: set per_host_per_second: null"),
        ({"deadline_s": 9.0}, "has no deadline_s"),
        ({"max_bytes": 10}, "has no max_bytes"),
        ({"contact": "you@example.org"}, "has no contact"),
        ({"blocked": ("list.txt",)}, "has no blocked"),
        ({"image_root": "/images"}, "has no image_root"),
        ({"image": DecodeConfig(resize="original")}, "re-encodes every image"),
        ({"image": DecodeConfig(background="#000000")}, "re-encodes every image"),
    ],
)
def test_unsupported_settings_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        img2dataset_config(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("message", "is_downloaded", "status"),
    [
        ("HTTP Error 429: Too Many Requests", False, "http_429"),
        ("<urlopen error [Errno -2] Name or service not known>", False, "dns"),
        ("<urlopen error timed out>", False, "timeout"),
        ("<urlopen error [Errno 111] Connection refused>", False, "connect"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", False, "tls"),
        ("IncompleteRead(200 bytes read, 500 more expected)", False, "connect"),
        ("'NoneType' object is not subscriptable", False, "internal"),
        ("image area too large", True, "too_many_pixels"),
        ("HTTP Error 404 as the text of an image", True, "decode"),
    ],
)
def test_classification_of_error_messages(message: str, is_downloaded: bool, status: str) -> None:
    assert classify_message(message, is_downloaded=is_downloaded) == status


def test_imported_only_when_used() -> None:
    heavy = {"img2dataset", "torch", "ray", "wandb"}
    code = f"import sys, capfilt.stages.fetch.img2dataset; print({heavy} & set(sys.modules))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "set()"


def test_shards_are_compatible(server: HostileServer, tmp_path: Path) -> None:
    """A shard of img2dataset's own downloader and writer compared with a shard of fetch and write."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    batch = make_batch(*(server.url(path) for path in ("/ok.jpg", "/status/404", "/webp", "/small", "/cmyk")))
    (tmp_path / "img2dataset").mkdir()
    feather = tmp_path / "0.feather"
    table = batch.select(["url", "caption"])
    with pa.OSFile(str(feather), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    Downloader(
        sample_writer_class=WebDatasetSampleWriter,
        resizer=Resizer(384, "keep_ratio", True, encode_quality=92, min_image_size=16),
        thread_count=4,
        save_caption=True,
        extract_exif=False,
        output_folder=str(tmp_path / "img2dataset"),
        column_list=["url", "caption"],
        timeout=5,
        number_sample_per_shard=100_000,
        oom_shard_count=6,
        compute_hash="sha256",
        verify_hash_type=None,
        encode_format="jpg",
        retries=0,
        user_agent_token=None,
        disallowed_header_directives=None,
    ).download_shard((0, str(feather)))
    write_shard(Fetch(fetch_config())(batch), tmp_path / "capfilt")

    shards = {"img2dataset": tmp_path / "img2dataset/000000", "capfilt": tmp_path / "capfilt/images/s/000000"}
    samples = {
        name: {s["__key__"]: s for s in webdataset.WebDataset(f"{path}.tar", shardshuffle=False)}
        for name, path in shards.items()
    }
    assert (
        sorted(samples["capfilt"])
        == sorted(samples["img2dataset"])
        == ["00000000000", "00000000002", "00000000004"]
    )
    for key, sample in samples["img2dataset"].items():
        other = samples["capfilt"][key]
        members = {name for name in sample if not name.startswith("__")}
        assert members == {name for name in other if not name.startswith("__")} == {"jpg", "txt", "json"}
        assert other["txt"] == sample["txt"]
        meta, other_meta = json.loads(sample["json"]), json.loads(other["json"])
        assert meta.items() <= {name: other_meta[name] for name in meta}.items()
    tables = shards | {"capfilt": tmp_path / "capfilt/corpus/s/000000"}
    columns = {name: pq.read_schema(f"{path}.parquet") for name, path in tables.items()}
    capfilt_columns = {field.name: field.type for field in columns["capfilt"]}
    assert capfilt_columns == {field.name: field.type for field in CORPUS_SCHEMA}
    assert {field.name: field.type for field in columns["img2dataset"]}.items() <= capfilt_columns.items()

    # The shard of img2dataset can also be a manifest.
    run = Store(str(tmp_path / "run"))
    build_index(ManifestConfig(manifest=f"{shards['img2dataset']}.tar"), run / "manifests/s", source="s")
    read = Read(ReadConfig(run_dir=run))(pa.Table.from_pylist([{"source": "s", "shard": 0}]))
    requests = len(server.requests)
    rows = Fetch(fetch_config())(read).to_pylist()
    assert len(server.requests) == requests
    # Rows are in the order in which the downloads finished.
    assert {(row["url"], row["caption"], row["status"]) for row in rows} == {
        (row["url"], row["caption"], "success") for row in batch.take([0, 2, 4]).to_pylist()
    }
