"""The store on an S3 server that is busy, breaks connections, loses responses, or whose bucket is absent."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.probe import check_writable
from capfilt.stages.manifest.config import ManifestConfig
from capfilt.stages.manifest.index import build_index
from capfilt.stages.shards.read import Read, ReadConfig
from capfilt.stages.shards.write import Write, WriteConfig
from capfilt.stages.storage import object_store
from capfilt.stages.storage.listing import file_sizes
from capfilt.stages.storage.sql import iter_tables
from capfilt.stages.storage.store import Store, StoreError
from tests.runs import walk
from tests.s3_server import ENVIRONMENT, S3Fault

TRANSIENT = ("slow_down", "error", "delay", "reset", "lost_response", "truncate")


@pytest.fixture
def run_dir(healthy_s3, request):
    """A run directory of its own on the server; the endpoint is a storage option."""
    return Store(f"s3://bucket/{request.node.name}", {"endpoint_url": healthy_s3.endpoint})


def test_transient_faults_are_retried(s3, run_dir):
    run_dir.put("a/old", b"x" * 5000)
    s3.inject(*(S3Fault(kind, every=4, times=2) for kind in TRANSIENT))
    for number in range(2):
        new, record = f"a/new-{number}", f"a/record-{number}.json"
        run_dir.put(new, b"y" * 5000)
        assert run_dir.create(record, b'{"mine": 1}')
        assert not run_dir.create(record, b'{"mine": 2}')
        assert run_dir.read("a/old") == b"x" * 5000 and run_dir.find(new) == b"y" * 5000
        assert run_dir.read_json(record) == {"mine": 1} and run_dir.find("a/none") is None
        assert run_dir.list("a") == [f"new-{number}", "old", f"record-{number}.json"]
        assert run_dir.exists(new) and not run_dir.exists("b")
        run_dir.remove_file(new)
        run_dir.remove_file(record)
    run_dir.remove("a")
    assert list(walk(run_dir)) == [] and s3.count_injected() == 2 * len(TRANSIENT)


def test_a_creation_whose_response_was_lost_succeeds(s3, run_dir):
    s3.inject(S3Fault("lost_response", method="PUT", times=1))
    assert run_dir.create("record.json", b"mine")
    assert [method for method, *_ in s3.requests()] == ["PUT", "PUT", "GET"]


def test_create_has_one_winner(run_dir):
    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda number: run_dir.create("record.json", str(number).encode()), range(6)))
    assert sum(won) == 1 and run_dir.read("record.json") == str(won.index(True)).encode()


def test_a_store_without_conditional_writes_is_refused(s3, run_dir):
    check_writable(run_dir)
    s3.inject(S3Fault("unconditional"))
    with pytest.raises(StoreError, match=r"run\.dir s3://.*If-None-Match.*conditional writes"):
        check_writable(run_dir)
    assert list(walk(run_dir)) == []


@pytest.mark.parametrize(("kind", "code"), [("no_bucket", "NoSuchBucket"), ("denied", "AccessDenied")])
def test_an_unavailable_bucket_is_one_line_and_not_an_empty_folder(s3, run_dir, kind, code):
    run_dir.put("a/x.json", b"{}")
    s3.inject(S3Fault(kind))
    ledger = Ledger(run_dir)
    for call in (
        lambda: run_dir.put("a/y", b""), lambda: run_dir.create("a/z", b""), lambda: run_dir.read("a/x.json"),
        lambda: run_dir.find("a/x.json"), lambda: run_dir.exists("a/x.json"), lambda: run_dir.list("a"),
        lambda: run_dir.remove("a"), lambda: run_dir.move("a/x.json", "a/y.json"),
        lambda: ledger.committed_shards("a"), lambda: ledger.node("fetch"), lambda: check_writable(run_dir),
    ):  # fmt: skip
        with pytest.raises(StoreError) as error:
            call()
        assert code in str(error.value) and run_dir.url in str(error.value) and "\n" not in str(error.value)
        assert ENVIRONMENT["AWS_SECRET_ACCESS_KEY"] not in str(error.value)
    s3.clear_faults()
    assert run_dir.list("a") == ["x.json"]


def test_files_of_other_processes_are_seen_at_once(s3, run_dir):
    run_dir.put("a/1.json", b"1")
    assert run_dir.list("a") == ["1.json"] and not run_dir.exists("a/2.json")
    other = Store(run_dir.url, {"endpoint_url": s3.endpoint, "use_listings_cache": False, "max_paths": 7})
    assert other.fs is not run_dir.fs  # as in another process
    other.put("a/2.json", b"2")
    assert run_dir.list("a") == ["1.json", "2.json"] and run_dir.exists("a/2.json")


def test_a_large_object_is_sent_in_parts_and_a_failed_part_is_sent_again(s3, run_dir):
    data = np.random.default_rng(0).bytes(101 * 2**20)
    s3.inject(S3Fault("slow_down", method="PUT", every=2, times=2))
    entry = run_dir.put("model.safetensors", data)
    parts = [query for method, _, query in s3.requests() if method == "PUT" and "partNumber" in query]
    assert len(parts) == 3 + 2 and entry.bytes == len(data)
    path = run_dir.path("model.safetensors")
    assert run_dir.fs.info(path)["size"] == len(data)
    seam = 50 * 2**20  # where the second part begins
    assert run_dir.fs.cat_file(path, start=seam - 99, end=seam + 99) == data[seam - 99 : seam + 99]


def test_an_object_of_no_bytes_is_found(run_dir):
    run_dir.put("empty", b"")
    assert run_dir.find("empty") == b"" == run_dir.read("empty")


def test_records_are_removed_before_the_other_files_and_names_are_not_patterns(s3, run_dir):
    for name in ("a*/1.json", "a*/1.tar", "a*/b/2.json", "ab/1.json"):
        run_dir.put(name, b"{}")
    s3.clear_faults()
    run_dir.remove("a*")
    assert list(walk(run_dir)) == ["ab/1.json"]
    removed = [path.rpartition("/")[2] for method, path, _ in s3.requests() if method == "DELETE"]
    assert removed == ["1.json", "2.json", "1.tar"]


class LeakyFilesystem:
    """Reports success for removals, and ignores the first `ignored` of them."""

    def __init__(self, ignored):
        self.names, self.ignored = ["a/1", "a/2"], ignored

    def find(self, path):
        return list(self.names)

    def rm(self, names):
        if self.ignored:
            self.ignored -= 1
        else:
            self.names = [name for name in self.names if name not in names]


def test_a_removal_that_leaves_objects_is_repeated_a_few_times():
    fs = LeakyFilesystem(ignored=object_store.ATTEMPTS - 1)
    object_store.remove_objects(fs, "a")
    assert fs.names == []
    with pytest.raises(OSError, match="2 files remain, for example a/1"):
        object_store.remove_objects(LeakyFilesystem(ignored=object_store.ATTEMPTS), "a")


class Conflict(Exception):
    """The error of a conditional write that met another one."""

    response = {"Error": {"Code": "ConditionalRequestConflict"}}  # noqa: RUF012


class ContestedFilesystem:
    """Conditional writes fail `conflicts` times."""

    def __init__(self, conflicts):
        self.conflicts, self.written = conflicts, []

    def pipe_file(self, path, data, mode):
        if self.conflicts:
            self.conflicts -= 1
            raise Conflict
        self.written.append((path, data, mode))


def test_a_creation_that_meets_other_writers_is_repeated_a_few_times(monkeypatch):
    monkeypatch.setattr(object_store.time, "sleep", lambda seconds: None)
    fs = ContestedFilesystem(conflicts=object_store.ATTEMPTS - 1)
    assert object_store.create_object(fs, "a/x", b"1") and fs.written == [("a/x", b"1", "create")]
    with pytest.raises(OSError, match="other writers interfered"):
        object_store.create_object(ContestedFilesystem(conflicts=object_store.ATTEMPTS), "a/x", b"1")


def test_a_shard_costs_few_requests_and_a_resume_lists_a_thousand_records_at_once(s3, run_dir, tmp_path):
    urls = [f"http://h/{i}.jpg" for i in range(60)]
    pq.write_table(pa.table({"url": urls, "caption": urls}), tmp_path / "m.parquet")
    manifest = ManifestConfig(manifest=str(tmp_path / "m.parquet"), shard_size=20)
    index = build_index(manifest, run_dir / "manifests/web", source="web")
    read = Read(ReadConfig(run_dir=run_dir))
    write = Write(WriteConfig(run_dir=run_dir, corpus_fingerprints={"web": "f"}))
    s3.clear_faults()
    for shard in range(index.shards):
        rows = read(pa.Table.from_pylist([{"source": "web", "shard": shard}]))
        failed = rows.set_column(rows.schema.get_field_index("status"), "status", pa.array(["dns"] * 20))
        write(failed)
    # Stop file, record, index (size, footer, rows); record, tar, Parquet, record. No listing.
    assert len(s3.requests()) <= 3 * 9
    assert not [query for *_, query in s3.requests() if "list-type" in query]
    s3.fill(f"{run_dir.path().removeprefix('bucket/')}/records/corpus/web", 1200)
    s3.clear_faults()
    assert len(Ledger(run_dir).committed_shards("corpus/web")) == 1200
    assert len(s3.requests()) == 2


def test_many_small_files_cost_one_request_each(s3, run_dir):
    for number in range(5):
        sink = io.BytesIO()
        pq.write_table(pa.table({"a": [number] * 10, "b": ["x"] * 10}), sink)
        run_dir.put(f"rows/{number}.parquet", sink.getvalue())
    s3.inject()
    schema = pa.schema([("a", pa.int64()), ("c", pa.string())])
    (table,) = iter_tables(run_dir, [f"rows/{number}.parquet" for number in range(5)], schema)
    assert table["a"].to_pylist() == [number for number in range(5) for _ in range(10)]
    assert table["c"].null_count == 50
    assert [method for method, *_ in s3.requests()] == ["GET"] * 5
    s3.inject()
    assert file_sizes(run_dir, "rows").keys() == {f"{number}.parquet" for number in range(5)}
    assert len(s3.requests()) == 1


def test_public_data_are_read_without_credentials(run_dir, s3, monkeypatch):
    run_dir.fs.pipe_file(run_dir.path("public"), b"all", ACL="public-read")
    run_dir.put("private", b"mine")
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    public = Store(run_dir.url, {"endpoint_url": s3.endpoint, "anon": True})
    assert public.find("public") == b"all"
    with pytest.raises(StoreError, match=r"AccessDenied|403"):
        public.find("private")
