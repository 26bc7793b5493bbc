"""img2dataset as backend, and beside us: its users' tools find in our shards what they found in its own."""

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
from capfilt.stages.fetch.img2dataset import Img2datasetFetch, status_of
from capfilt.stages.fetch.stage import Fetch
from capfilt.stages.images.decode import DecodeConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.rows import CORPUS_SCHEMA, ROW_SCHEMA, table_of
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.store import Store
from tests.stages.fetch.hostile import NAMES, Hostile, config, picture, rows

pytestmark = pytest.mark.usefixtures("loopback_only")

MIXED = {  # the same status by both backends
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
    "/slow-header": "timeout",
    "/tag/" + b"noai".hex(): "optout",
    "https": "tls",
    "http://nosuch.test/": "dns",
    "http://10.0.0.1/a.jpg": "private_address",
    "http://[::ffff:10.0.0.1]/": "private_address",
    "http://127.1/": "bad_url",
    "file:///etc/hostname": "bad_url",
    "ftp://good.test/a.jpg": "bad_url",
    "a/relative.jpg": "bad_url",
    "": "bad_url",
}


@pytest.fixture(autouse=True)
def addresses_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """urllib resolves addresses too."""
    monkeypatch.setitem(NAMES, "127.0.0.1", ["127.0.0.1"])


def theirs(**changes: Any) -> FetchConfig:
    usual: dict[str, Any] = {
        "backend": "img2dataset",
        "robots": False,
        "per_host_per_second": None,
        "connect_timeout_s": 1.0,
        "retries": 0,
        "concurrency": 16,
        "allow_private": ("127.0.0.1", "good.test"),
        "image": DecodeConfig(min_side=16),
    }
    return FetchConfig(**(usual | changes))


def mixed_rows(server: Hostile) -> pa.Table:
    """The mixed list, a row without a url, one that brings its picture, one without, and one that is done."""
    urls = [server.url(name) if name.startswith("/") else name for name in MIXED]
    # It asks for an hour of peace, which ours gives the whole host.
    urls[list(MIXED).index("/status/503")] = server.url("/status/503", "good.test")
    urls[list(MIXED).index("https")] = server.url("/ok.jpg").replace("http:", "https:")
    batch = rows(*urls, None, "a", "b", "c").to_pylist()
    batch[-3]["image"] = picture(size=(70, 50))
    batch[-2]["error_message"] = "the sample has no image member"
    batch[-1] |= {"status": "http_404", "error_message": "gone long ago"}
    return table_of(batch, ROW_SCHEMA)


def stored(batch: pa.Table, folder: Path) -> tuple[pa.Table, list[str]]:
    """The Parquet and the member names of the tar that the writer makes of a batch."""
    Write(WriteConfig(run_dir=Store(str(folder)), corpus_fingerprints={"s": "f"}))(batch)
    with tarfile.open(folder / "corpus/s/000000.tar") as tar:
        return pq.read_table(folder / "corpus/s/000000.parquet"), tar.getnames()


def test_both_backends_end_a_mixed_list_alike(server: Hostile, tmp_path: Path) -> None:
    batch = mixed_rows(server)
    of_theirs = Img2datasetFetch(theirs())(batch)
    of_ours = Fetch(config(retries=0, robots=False, host_failures=100))(batch)
    wanted = [*MIXED.values(), "bad_url", "success", "missing_file", "http_404"]
    for out in (of_ours, of_theirs):
        assert out.schema == ROW_SCHEMA
        assert out["status"].to_pylist() == wanted, out["error_message"].to_pylist()
        for name in ("key", "source", "shard", "url", "caption", "texts", "truth"):
            assert out[name].equals(batch[name])
        assert [(v is None) for v in out["image"].to_pylist()] == [s != "success" for s in wanted]
    for name in ("width", "height", "original_width", "original_height"):
        assert of_theirs[name].equals(of_ours[name])
    both = zip(of_ours.to_pylist(), of_theirs.to_pylist(), strict=True)
    assert all(a["sha256"] == b["sha256"] and b["phash"] for a, b in both if a["status"] == "success")
    parquet, members = stored(of_theirs, tmp_path / "theirs")
    parquet_ours, members_ours = stored(of_ours, tmp_path / "ours")
    assert parquet.schema.equals(parquet_ours.schema) and members == members_ours


def test_what_it_does_otherwise(server: Hostile) -> None:
    """The defects that docs/fetching.md names."""
    paths = ("/html", "/exif/6", "/16-bit", "/private/a.jpg")
    batch = rows(*(server.url(path) for path in paths))
    page, turned, deep, private = Img2datasetFetch(theirs())(batch).to_pylist()
    assert page["status"] == "decode"
    assert (turned["width"], turned["height"]) == (64, 48)  # seen upright it is 48 x 64
    with Image.open(io.BytesIO(deep["image"])) as seen:
        assert seen.convert("RGB").getpixel((1, 1)) != (220, 30, 40)
    assert private["status"] == "success"
    assert Fetch(config())(batch)["status"].to_pylist() == ["not_image", "success", "success", "robots"]


def test_sizes_are_ours(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    for resize, wanted in (("shorter", (42, 32)), ("longer", (32, 24))):
        image = DecodeConfig(min_side=16, resize=resize, size=32, format="webp")  # type: ignore[arg-type]
        both = (Fetch(config(image=image)), Img2datasetFetch(theirs(image=image)))
        for (row,) in (stage(rows(server.url("/ok.jpg"))).to_pylist() for stage in both):
            assert row["image"][8:12] == b"WEBP"
            assert (row["width"], row["height"]) == pytest.approx(wanted, abs=1)
            assert (row["original_width"], row["original_height"]) == (64, 48)


def test_who_asks_and_standard_output_stay(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its resizer as it comes swaps the process's file descriptors 1 and 2 at every picture."""
    swapped: list[Any] = []
    monkeypatch.setattr(os, "dup2", lambda *which: swapped.append(which))
    stage = pickle.loads(pickle.dumps(Img2datasetFetch(theirs())))
    assert stage(rows(server.url("/ok.jpg")))["status"].to_pylist() == ["success"]
    assert "capfilt" in server.headers["user-agent"]
    assert swapped == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robots": True}, "knows no robots: set robots: false"),
        ({"per_host_per_second": 5.0}, "knows no per_host_per_second: set per_host_per_second: null"),
        ({"deadline_s": 9.0}, "has no deadline_s"),
        ({"max_bytes": 10}, "has no max_bytes"),
        ({"contact": "you@example.org"}, "has no contact"),
        ({"blocked": ("list.txt",)}, "has no blocked"),
        ({"image_root": "/pictures"}, "has no image_root"),
        ({"image": DecodeConfig(resize="original")}, "stores every picture anew"),
        ({"image": DecodeConfig(background="#000000")}, "stores every picture anew"),
    ],
)
def test_what_it_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        theirs(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("message", "downloaded", "status"),
    [
        ("HTTP Error 429: Too Many Requests", False, "http_429"),
        ("<urlopen error [Errno -2] Name or service not known>", False, "dns"),
        ("<urlopen error timed out>", False, "timeout"),
        ("<urlopen error [Errno 111] Connection refused>", False, "connect"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", False, "tls"),
        ("IncompleteRead(200 bytes read, 500 more expected)", False, "connect"),
        ("'NoneType' object is not subscriptable", False, "internal"),
        ("image area too large", True, "too_many_pixels"),
        ("HTTP Error 404 as a text in a picture", True, "decode"),
    ],
)
def test_its_messages_become_our_statuses(message: str, downloaded: bool, status: str) -> None:
    assert status_of(message, downloaded=downloaded) == status


def test_nothing_of_it_is_imported_unless_it_is_chosen() -> None:
    code = "import sys, stages.fetch.img2dataset as f; print({'img2dataset', 'torch', 'ray', 'wandb'} & set(sys.modules))"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.strip() == "set()"


def test_its_own_shard_and_ours_are_read_alike(server: Hostile, tmp_path: Path) -> None:
    """Its downloader with its own writer, shards of as many digits as ours, beside fetch and write."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    from img2dataset.downloader import Downloader
    from img2dataset.resizer import Resizer
    from img2dataset.writer import WebDatasetSampleWriter

    batch = rows(*(server.url(path) for path in ("/ok.jpg", "/status/404", "/webp", "/small", "/cmyk")))
    (tmp_path / "theirs").mkdir()
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
        output_folder=str(tmp_path / "theirs"),
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
    stored(Fetch(config())(batch), tmp_path / "ours")

    shards = {"theirs": tmp_path / "theirs/000000", "ours": tmp_path / "ours/corpus/s/000000"}
    samples = {
        side: {s["__key__"]: s for s in webdataset.WebDataset(f"{path}.tar", shardshuffle=False)}
        for side, path in shards.items()
    }
    assert (
        sorted(samples["ours"]) == sorted(samples["theirs"]) == ["00000000000", "00000000002", "00000000004"]
    )
    for key, sample in samples["theirs"].items():
        ours = samples["ours"][key]
        members = {name for name in sample if not name.startswith("__")}
        assert members == {name for name in ours if not name.startswith("__")} == {"jpg", "txt", "json"}
        assert ours["txt"] == sample["txt"]
        said, said_ours = json.loads(sample["json"]), json.loads(ours["json"])
        assert said.items() <= {name: said_ours[name] for name in said}.items()
    columns = {side: pq.read_schema(f"{path}.parquet") for side, path in shards.items()}
    of_ours = {field.name: field.type for field in columns["ours"]}
    assert of_ours == {field.name: field.type for field in CORPUS_SCHEMA}
    assert {field.name: field.type for field in columns["theirs"]}.items() <= of_ours.items()

    # And its shard is a manifest as it is.
    run = Store(str(tmp_path / "run"))
    build_index(ManifestConfig(manifest=f"{shards['theirs']}.tar"), run / "corpus/s/index", source="s")
    read = Read(ReadConfig(run_dir=run))(pa.Table.from_pylist([{"source": "s", "shard": 0}]))
    asked = len(server.asked)
    again = Fetch(config())(read).to_pylist()
    assert len(server.asked) == asked
    # Its order is that in which downloads ended.
    assert {(row["url"], row["caption"], row["status"]) for row in again} == {
        (row["url"], row["caption"], "success") for row in batch.take([0, 2, 4]).to_pylist()
    }
