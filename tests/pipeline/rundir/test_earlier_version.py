"""Run directories of version 0.1.0 as first released can be resumed: same fingerprints, records that are
read.

The samples are records as that version wrote them. If a test here fails, runs that have begun can no longer
be resumed.
"""

import json

import msgspec
import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.plan import plan
from capfilt.pipeline.prepare import open_run
from capfilt.pipeline.rundir.fingerprints import Fingerprints
from capfilt.pipeline.rundir.generations import find_replacements
from capfilt.pipeline.rundir.ledger import Ledger, LedgerError
from capfilt.stages.manifest.index import ManifestError, decode_index, read_index
from capfilt.stages.shards.records import (
    CandidatesRecord,
    CorpusRecord,
    StagedShard,
    decode_commit,
    decode_staged,
    encode,
)
from capfilt.stages.storage.store import FileEntry, Store

TRAINING = {"objective": {}, "optimizer": {"lr": 1e-5, "schedule": "cosine"}, "epochs": 5}
CONFIG = {
    "run": {"dir": "run", "name": "golden", "rounds": 2},
    "sources": {
        "human": {"kind": "human", "rows": {"manifest": "human.json"}, "images": "images"},
        "web": {"kind": "web", "rows": {"manifest": "web.parquet", "shard_size": 20}, "parts": 2},
        "test": {"kind": "test", "rows": {"manifest": "test.json"}, "images": "images"},
    },
    "pretrain": TRAINING | {"objective": {"queue_size": 64}},
    "captioner": {"finetune": TRAINING | {"objective": {"losses": ["lm"]}}},
    "filter": {"finetune": TRAINING | {"objective": {"losses": ["itc", "itm"]}}},
    "continue_training": True,
}
FINGERPRINTS = {
    "fetch": "8fb3ee7661ae6d0c",
    "pretrain.0": "87599eeff1a62704",
    "captioner.1": "924ff73cb010592d",
    "filter.1": "e843fba2d89e7e01",
    "bootstrap.1": "3101ca623c0ba194",
    "pretrain.1": "6c8f6eb941271bd3",
    "evaluate.1": "405ef315096379d4",
    "captioner.2": "5e457b5b0c884cb6",
    "filter.2": "65805357395ac794",
    "report.1": "7747c30cfd273c45",
    "bootstrap.2": "7e62c9bc923063c1",
    "pretrain.2": "bc7cc82905bf7f70",
    "evaluate.2": "da15fd697bb276b4",
    "report.2": "9a8870fb1685a007",
}

CORPUS = b"""{
 "files": [
  {
   "bytes": 10240,
   "name": "000000.tar",
   "sha256": "649eac8d0eac734a103f01367ee53b8e57a33b5ffda77be75b8debcdaa5ccd5c"
  },
  {
   "bytes": 4858,
   "name": "000000.parquet",
   "sha256": "81bcae341bca58dd9d6dcd49a47fa268134c91b488373cde3acd9c7ea3320785"
  }
 ],
 "fingerprint": "fe540c211233c35f",
 "kind": "corpus",
 "rows": {
  "read": 3,
  "status": {
   "missing_file": 1,
   "success": 2
  }
 },
 "seconds": {
  "fetch": 0.122,
  "read": 2.0
 },
 "shard": 0,
 "source": "web",
 "texts": 2,
 "version": 1
}
"""
CANDIDATES = b"""{
 "candidates": {
  "synthetic": {
   "dropped": 1,
   "kept": 3
  },
  "web": {
   "kept": 1,
   "unjudged": 1
  }
 },
 "duplicates": 1,
 "files": [
  {
   "bytes": 6102,
   "name": "000007.parquet",
   "sha256": "ea09d3a13e5fdd8cbd7c76ab9f0fb8f7ee758878db45b7b901459a249ce9664b"
  }
 ],
 "fingerprint": "ca3d163bab055381",
 "kind": "candidates",
 "round": 2,
 "rows": {
  "read": 3,
  "status": {
   "dns": 1,
   "success": 2
  }
 },
 "seconds": {
  "caption": 1.25,
  "filter": 0.5
 },
 "shard": 7,
 "source": "web",
 "version": 1
}
"""
STAGED = (
    b"""{
 "asked": 1,
 "classes": [
  "missing_file"
 ],
 "files": {
  "000000.parquet": "000000.65091537.parquet",
  "000000.tar": "000000.65091537.tar"
 },
 "record": """
    + CORPUS.strip().replace(b"\n", b"\n ")
    + b""",
 "replaces": "b9057213637a9cf14611b413d565a44cfd5f3b54ddbc300614693737c9aad577",
 "status": {
  "success": 1
 }
}
"""
)
INPUTS = {"version": 1, "seed": 1, "upstream": {"fetch": "8fb3ee7661ae6d0c"}}
STARTED = {"fingerprint": "a83189c4f5cf8a1b", "inputs": INPUTS}
BOOTSTRAP = {
    **STARTED,
    "node": "bootstrap.1",
    "seconds": 12.5,
    "outputs": ["rounds/1/web"],
    "counts": {"rows": 3, "status": {"success": 3}, "by_source": {"web": {"success": 3}}},
    "models": {"captioner": "0123456789abcdef", "filter": "fedcba9876543210"},
}
EVALUATE = {
    **STARTED,
    "node": "evaluate.1",
    "seconds": 2.0,
    "outputs": [],
    "counts": {},
    "results": {"pretrain.0": {"images": 12, "retrieval": {"tr@1": 50.0}, "caption": {"cider": 1.5}}},
}
INDEX = {
    "files": ["/data/manifest.csv", "/data/0.tar", "/data/1.tar"],
    "identity": "ab756eb547560d34324d576bdc48173e350c87cda93ebbc36fc14195a4aa9d42",
    "parts": [{"bytes": 2577, "name": "00000.parquet", "sha256": "0" * 64}],
    "rows": 9,
    "shards": 3,
    "tars": 2,
}


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def test_fingerprints_are_the_same():
    config = parse_config(CONFIG, "test")
    nodes = plan(config)
    fingerprints = Fingerprints(config, nodes)
    assert {name: fingerprints.of(name) for name in nodes} == FINGERPRINTS


@pytest.mark.parametrize(("data", "form"), [(CORPUS, CorpusRecord), (CANDIDATES, CandidatesRecord)])
def test_commit_records_are_read_and_encoded_to_the_same_bytes(data, form):
    record = decode_commit(data)
    assert isinstance(record, form) and encode(record) == data
    assert record.rows.read == 3 and record.files[0].bytes in (10240, 6102)


def test_values_of_commit_records():
    corpus, candidates = decode_commit(CORPUS), decode_commit(CANDIDATES)
    assert (corpus.texts, corpus.source, corpus.shard, corpus.version) == (2, "web", 0, 1)
    assert corpus.rows.status == {"missing_file": 1, "success": 2}
    assert (candidates.round, candidates.shard, candidates.kept, candidates.duplicates) == (2, 7, 4, 1)


def test_candidates_whose_duplicates_are_not_marked_stay_without_the_field():
    data = json.loads(CANDIDATES)
    del data["duplicates"]
    record = decode_commit(json.dumps(data).encode())
    assert record.duplicates is msgspec.UNSET and "duplicates" not in json.loads(encode(record))


def test_staged_shards_are_read_and_encoded_to_the_same_bytes(store):
    staged = decode_staged(STAGED)
    assert encode(staged) == STAGED and staged.record == decode_commit(CORPUS)
    nothing_changed = json.loads(STAGED) | {"record": None, "files": {}}
    assert decode_staged(json.dumps(nothing_changed).encode()) == StagedShard(
        classes=("missing_file",),
        replaces=staged.replaces,
        asked=1,
        status={"success": 1},
        files={},
        record=None,
    )


def test_records_of_nodes_are_read(store):
    ledger = Ledger(store)
    store.put_json("nodes/bootstrap.1.json", BOOTSTRAP)
    store.put_json("nodes/evaluate.1.json", EVALUATE)
    store.put_json("nodes/report.1.started.json", STARTED)
    bootstrap, evaluate = ledger.node("bootstrap.1"), ledger.node("evaluate.1")
    assert bootstrap.models == BOOTSTRAP["models"] and bootstrap.counts == BOOTSTRAP["counts"]
    assert bootstrap.outputs == ["rounds/1/web"] and bootstrap.seconds == 12.5
    assert evaluate.results == EVALUATE["results"] and not evaluate.models and evaluate.outputs == []
    started = ledger.latest("report.1")
    assert (started.fingerprint, started.inputs) == (STARTED["fingerprint"], INPUTS)


def test_index_is_read():
    index = decode_index(json.dumps(INDEX).encode())
    assert (index.rows, index.shards, index.tars, index.has_tars) == (9, 3, 2, True)
    assert index.files == tuple(INDEX["files"]) and index.parts == (
        FileEntry("00000.parquet", 2577, "0" * 64),
    )


@pytest.mark.parametrize(("files", "tars"), [(INDEX["files"], 2), (INDEX["files"][:1], 0)])
def test_index_without_tars_and_parts_is_read_and_its_tars_are_counted_by_name(files, tars):
    data = {key: value for key, value in INDEX.items() if key not in ("tars", "parts")}
    index = decode_index(json.dumps(data | {"files": files}).encode())
    assert (index.tars, index.parts, index.has_tars) == (tars, (), tars > 0)


def test_unknown_fields_are_ignored(store):
    assert decode_commit(json.dumps(json.loads(CORPUS) | {"new": 1}).encode()) == decode_commit(CORPUS)
    assert decode_staged(json.dumps(json.loads(STAGED) | {"new": 1}).encode()) == decode_staged(STAGED)
    assert decode_index(json.dumps(INDEX | {"new": 1}).encode()).rows == 9
    store.put_json("nodes/evaluate.1.json", EVALUATE | {"new": 1})
    assert Ledger(store).node("evaluate.1").seconds == 2.0


def without(record, field):
    return json.dumps({key: value for key, value in record.items() if key != field}).encode()


@pytest.mark.parametrize(
    ("name", "record", "field", "read"),
    [
        ("nodes/n.json", BOOTSTRAP, "seconds", lambda ledger: ledger.node("n")),
        ("nodes/n.json", BOOTSTRAP, "fingerprint", lambda ledger: ledger.latest("n")),
        ("nodes/n.started.json", STARTED, "inputs", lambda ledger: ledger.state("n", INPUTS)),
        (
            "records/corpus/web/000000.json",
            json.loads(CORPUS),
            "files",
            lambda ledger: [*ledger.records("corpus/web")],
        ),
        (
            "records/corpus/web/000000.json",
            json.loads(CORPUS),
            "kind",
            lambda ledger: [*ledger.records("corpus/web")],
        ),
        (
            "records/rounds/1/web/000007.json",
            json.loads(CANDIDATES),
            "round",
            lambda ledger: [*ledger.records("rounds/1/web")],
        ),
    ],
)
def test_record_without_a_field_is_an_error_that_names_the_file(store, name, record, field, read):
    store.put(name, without(record, field))
    with pytest.raises(LedgerError) as error:
        read(Ledger(store))
    line = str(error.value)
    assert line.startswith(f"{store.address(name)}: damaged (") and f"`{field}`" in line and "\n" not in line
    assert line.endswith(f"capfilt verify {store.url} --repair fixes it")


def test_damaged_index_is_an_error_that_names_the_file(store):
    store.put("index.json", without(INDEX, "identity"))
    with pytest.raises(ManifestError, match=r"index\.json: damaged \(.*`identity`"):
        read_index(store)


def test_damaged_record_of_a_staged_shard_is_an_error_that_names_the_file(tmp_path):
    data = CONFIG | {"run": {"dir": str(tmp_path / "run")}}
    run_dir = open_run(parse_config(data, "test"))
    run_dir.store.put("replacing/web/000000.json", without(json.loads(STAGED), "replaces"))
    with pytest.raises(
        LedgerError, match=r"replacing/web/000000\.json: damaged \(.*`replaces`.*--repair removes it"
    ):
        find_replacements(run_dir)


def test_result_of_a_node_is_written_with_the_keys_of_that_version(store):
    result = NodeResult("", tuple(BOOTSTRAP["outputs"]), BOOTSTRAP["counts"], BOOTSTRAP["models"])
    Ledger(store).finish("bootstrap.1", INPUTS, result, 12.5)
    written = store.read_json("nodes/bootstrap.1.json")
    assert written.pop("version") == 1
    assert written == BOOTSTRAP | {"fingerprint": written["fingerprint"]}
