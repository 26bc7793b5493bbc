"""The store on an S3 server that is busy, breaks off, loses answers, or whose bucket is gone."""

import io
import json
import os
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.models.checkpoints.load import save_checkpoint
from capfilt.pipeline.rundir import lease
from capfilt.pipeline.rundir.lease import LeaseError, acquire, hold
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.probe import check_writable
from capfilt.stages.bootstrap.caption import Caption, CaptionConfig
from capfilt.stages.bootstrap.filter import Filter, FilterConfig
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage.artifacts import ArtifactError, copies_folder, local_artifact
from capfilt.stages.storage.filesystems import filesystem_options
from capfilt.stages.storage.store import Store, StoreError
from tests.models.tiny_med import TOKENIZER, build
from tests.runs import walk
from tests.s3_server import ENVIRONMENT, Trouble

TRANSIENT = ("slow_down", "error", "delay", "reset", "lost", "cut")


@pytest.fixture
def run(calm_s3, request):
    """A run directory of its own on the server; the endpoint is a storage option."""
    return Store(f"s3://bucket/{request.node.name}", {"endpoint_url": calm_s3.endpoint})


def test_what_passes_by_is_waited_for(s3, run):
    run.put("a/old", b"x" * 5000)
    s3.trouble(*(Trouble(kind, every=4, times=2) for kind in TRANSIENT))
    for number in range(2):
        new, record = f"a/new-{number}", f"a/record-{number}.json"
        run.put(new, b"y" * 5000)
        assert run.create(record, b'{"mine": 1}')
        assert not run.create(record, b'{"mine": 2}')
        assert run.read("a/old") == b"x" * 5000 and run.get(new) == b"y" * 5000
        assert run.read_json(record) == {"mine": 1} and run.get("a/none") is None
        assert run.list("a") == [f"new-{number}", "old", f"record-{number}.json"]
        assert run.exists(new) and not run.exists("b")
        run.remove_file(new)
        run.remove_file(record)
    run.remove("a")
    assert list(walk(run)) == [] and s3.injected() == 2 * len(TRANSIENT)


def test_a_created_object_whose_answer_was_lost_is_ours(s3, run):
    s3.trouble(Trouble("lost", method="PUT", times=1))
    assert run.create("record.json", b"mine")
    assert [method for method, *_ in s3.requests()] == ["PUT", "PUT", "GET"]


def test_create_has_one_winner(run):
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda number: run.create("record.json", str(number).encode()), range(6)))
    assert sum(won) == 1 and run.read("record.json") == str(won.index(True)).encode()


def test_a_store_that_replaces_what_was_to_be_created_is_refused(s3, run):
    check_writable(run)
    s3.trouble(Trouble("unconditional"))
    with pytest.raises(StoreError, match=r"run\.dir s3://.*If-None-Match.*conditional writes"):
        check_writable(run)
    assert list(walk(run)) == []


@pytest.mark.parametrize(("kind", "code"), [("gone", "NoSuchBucket"), ("denied", "AccessDenied")])
def test_a_bucket_that_is_away_is_one_line_and_never_an_empty_folder(s3, run, kind, code):
    run.put("a/x.json", b"{}")
    s3.trouble(Trouble(kind))
    ledger = Ledger(run)
    for call in (
        lambda: run.put("a/y", b""), lambda: run.create("a/z", b""), lambda: run.read("a/x.json"),
        lambda: run.get("a/x.json"), lambda: run.exists("a/x.json"), lambda: run.list("a"), lambda: run.remove("a"),
        lambda: ledger.committed_shards("a"), lambda: ledger.node("fetch"), lambda: check_writable(run),
    ):  # fmt: skip
        with pytest.raises(StoreError) as error:
            call()
        assert code in str(error.value) and run.url in str(error.value) and "\n" not in str(error.value)
        assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in str(error.value)
    s3.calm()
    assert run.list("a") == ["x.json"]


def test_what_another_process_writes_is_seen_at_once(s3, run):
    run.put("a/1.json", b"1")
    assert run.list("a") == ["1.json"] and not run.exists("a/2.json")
    other = Store(run.url, {"endpoint_url": s3.endpoint, "use_listings_cache": False, "max_paths": 7})
    assert other.fs is not run.fs  # as in another process
    other.put("a/2.json", b"2")
    assert run.list("a") == ["1.json", "2.json"] and run.exists("a/2.json")


def test_a_big_object_goes_up_in_parts_and_a_part_that_fails_is_sent_again(s3, run):
    data = np.random.default_rng(0).bytes(101 * 2**20)
    s3.trouble(Trouble("slow_down", method="PUT", every=2, times=2))
    entry = run.put("model.safetensors", data)
    parts = [query for method, _, query in s3.requests() if method == "PUT" and "partNumber" in query]
    assert len(parts) == 3 + 2 and entry.bytes == len(data)
    assert run.fs.info(run.path("model.safetensors"))["size"] == len(data)
    seam = 50 * 2**20  # where the second part begins
    assert (
        run.fs.cat_file(run.path("model.safetensors"), start=seam - 99, end=seam + 99)
        == data[seam - 99 : seam + 99]
    )


def test_a_shard_costs_few_requests_and_a_resume_lists_by_the_thousand(s3, run, tmp_path):
    urls = [f"http://h/{i}.jpg" for i in range(60)]
    pq.write_table(pa.table({"url": urls, "caption": urls}), tmp_path / "m.parquet")
    index = build_index(ManifestConfig(manifest=str(tmp_path / "m.parquet"), shard_size=20), run / "corpus/web/index",
                        source="web")  # fmt: skip
    read, write = (
        Read(ReadConfig(run_dir=run)),
        Write(WriteConfig(run_dir=run, corpus_fingerprints={"web": "f"})),
    )
    s3.calm()
    for shard in range(index.shards):
        rows = read(pa.Table.from_pylist([{"source": "web", "shard": shard}]))
        failed = rows.set_column(rows.schema.get_field_index("status"), "status", pa.array(["dns"] * 20))
        write(failed)
    # Stop file, record, index (size, footer, rows); record, tar, Parquet, record. No listing.
    assert len(s3.requests()) <= 3 * 9
    assert not [query for *_, query in s3.requests() if "list-type" in query]
    s3.fill(f"{run.path().removeprefix('bucket/')}/corpus/web", 1200)
    s3.calm()
    assert len(Ledger(run).committed_shards("corpus/web")) == 1200
    assert len(s3.requests()) == 2


def test_a_model_made_again_at_its_address_is_copied_again(s3, run):
    for content in (b"first", b"second"):
        run.put("models/m/model.safetensors", content)
        run.put("models/m/sub/vocab.txt", b"v")
        s3.trouble(Trouble("cut", method="GET", path=".*safetensors", times=1))
        folder = local_artifact(run.address("models/m"), "captioner.checkpoint", run)
        with open(f"{folder}/model.safetensors", "rb") as stream:
            assert stream.read() == content
    file = local_artifact(run.address("models/m/model.safetensors"), "captioner.checkpoint", run)
    with open(file, "rb") as stream:
        assert stream.read() == b"second"
    with pytest.raises(ArtifactError, match=r"captioner\.checkpoint: nothing at s3://.*/models/none"):
        local_artifact(run.address("models/none"), "captioner.checkpoint", run)
    s3.trouble(Trouble("gone"))
    with pytest.raises(ArtifactError, match=r"captioner\.checkpoint: cannot read s3://"):
        local_artifact(run.address("models/m"), "captioner.checkpoint", run)


def test_one_process_of_a_machine_copies_a_model_and_the_others_wait(s3, run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run.put("models/m/model.safetensors", b"weights")
    run.put("models/m/config.json", b"{}")
    copies_folder().mkdir()
    s3.trouble(Trouble("delay", method="GET", path=".*safetensors", times=1))
    with ThreadPoolExecutor(4) as pool:
        copies = set(pool.map(lambda _: local_artifact(run.address("models/m"), "model", run), range(4)))
    asked = [path for method, path, *_ in s3.requests() if method == "GET" and "safetensors" in path]
    assert len(copies) == 1 and len(asked) == 1
    assert [p.name for p in copies_folder().iterdir() if not p.name.startswith(".")] == [
        os.path.basename(copies.pop())
    ]


def test_a_copy_of_which_the_system_removed_a_file_is_made_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    run.put("models/m/model.safetensors", b"weights")
    run.put("models/m/config.json", b"{}")
    copy = Path(local_artifact(run.address("models/m"), "model", run))
    (copy / "model.safetensors").unlink()
    again = Path(local_artifact(run.address("models/m"), "model", run))
    assert again == copy and (copy / "model.safetensors").read_bytes() == b"weights"


def test_public_data_are_read_without_credentials(run, s3, monkeypatch):
    run.fs.pipe_file(run.path("public"), b"all", ACL="public-read")
    run.put("private", b"mine")
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    public = Store(run.url, {"endpoint_url": s3.endpoint, "anon": True})
    assert public.get("public") == b"all"
    with pytest.raises(StoreError, match=r"AccessDenied|403"):
        public.get("private")


def test_the_environment_goes_before_our_retries_and_the_user_before_both(monkeypatch):
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    monkeypatch.delenv("AWS_RETRY_MODE", raising=False)
    ours = {"mode": "standard", "total_max_attempts": 8}
    assert filesystem_options("s3://b/run")["config_kwargs"] == {"retries": ours}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    assert filesystem_options("s3a://b/run")["config_kwargs"]["retries"] == {"mode": "standard"}
    given = {"profile": "me", "config_kwargs": {"retries": {"total_max_attempts": 3}, "read_timeout": 99}}
    assert filesystem_options("s3://b/run", given) == given | {"use_listings_cache": False}
    assert filesystem_options("gs://b/run") == {"use_listings_cache": False}
    assert filesystem_options("/data/run") == {}


def test_captioner_and_filter_are_loaded_from_a_url(run, tmp_path):
    save_checkpoint(str(tmp_path), build(), TOKENIZER, {})
    for file in tmp_path.iterdir():
        run.put(f"models/m/{file.name}", file.read_bytes())
    here, there = str(tmp_path), run.address("models/m")
    captioners = [
        Caption(CaptionConfig(), checkpoint=place, run=run, device="cpu") for place in (here, there)
    ]
    filters = [Filter(FilterConfig(), checkpoint=place, run=run, device="cpu") for place in (here, there)]
    for local, remote in ((s.captioner.med if isinstance(s, Caption) else s.matcher.med for s in pair)
                          for pair in (captioners, filters)):  # fmt: skip
        ours, theirs = local.state_dict(), remote.state_dict()
        assert ours.keys() == theirs.keys() and all(ours[n].equal(theirs[n]) for n in ours)


def test_tars_of_a_manifest_on_s3_are_read_with_its_options(run, tmp_path):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in (("a.jpg", b"picture"), ("a.txt", b"a text")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    run.put("in/0.tar", sink.getvalue())
    here = Store(str(tmp_path))
    rows = ManifestConfig(manifest=run.address("in/*.tar"), storage_options=run.options)
    build_index(rows, here / "corpus/web/index", source="web")
    read = Read(ReadConfig(run_dir=here, tar_options={"web": rows.storage_options}))
    (row,) = read(pa.Table.from_pylist([{"source": "web", "shard": 0}])).to_pylist()
    assert row["image"] == b"picture" and row["texts"] == ["a text"]


class TestLease:
    """As tests/pipeline/rundir/test_lease.py has it, where a heartbeat is a request."""

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch):
        monkeypatch.setattr(lease, "BEAT_SECONDS", 0.2)
        monkeypatch.setattr(lease, "LAPSE_SECONDS", 3.0)

    def test_one_driver_at_a_time(self, run):
        with hold(run, print):
            assert run.list("lease") == ["000001.json"]
            with pytest.raises(LeaseError, match="another run is at work there"):
                acquire(run, print)
        assert run.list("lease") == []

    def test_a_dead_owner_of_another_machine_loses_it(self, run):
        who = {"host": "far", "pid": 7, "machine": "other", "process": "1", "since": "2026-01-01", "beats": 3}
        run.put("lease/000004.json", json.dumps(who).encode())
        told = []
        with hold(run, told.append):
            assert run.list("lease") == ["000005.json"]
        assert len(told) == 1 and "process 7 on far" in told[0]

    def test_it_is_taken_and_kept_while_the_store_is_shaky(self, s3, run):
        s3.trouble(Trouble("lost", every=3), Trouble("slow_down", every=3))
        with hold(run, print) as held:
            assert held.number == 1
            held.check()

    def test_it_can_be_let_go_while_the_bucket_is_away(self, s3, run):
        held = acquire(run, print)
        s3.trouble(Trouble("gone"))
        held.release()
        held.check()
