import pytest

from capfilt.pipeline.rundir.ledger import Ledger, LedgerError, difference, fingerprint
from capfilt.stages.shards.records import CorpusRecord, RowCounts, encode
from capfilt.stages.storage.store import Store
from tests.runs import DONE

INPUTS = {"seed": 1, "captioner": {"generate": {"sampling": {"top_p": 0.9}}}, "upstream": {"fetch": "aa"}}
RECORD = CorpusRecord(source="web", shard=0, fingerprint="f", files=(), rows=RowCounts(read=0, status={}))


@pytest.fixture
def ledger(tmp_path):
    return Ledger(Store(str(tmp_path)))


def changed(top_p):
    return {**INPUTS, "captioner": {"generate": {"sampling": {"top_p": top_p}}}}


def test_node_goes_from_new_over_half_to_done(ledger):
    assert ledger.state("n", INPUTS) == "new"
    ledger.start("n", INPUTS)
    assert ledger.state("n", INPUTS) == "half"
    ledger.finish("n", INPUTS, DONE, 1.0)
    assert ledger.state("n", INPUTS) == "done"
    assert ledger.node("n").seconds == 1.0


@pytest.mark.parametrize("done", [True, False])
def test_changed_config_is_refused_with_what_changed_and_what_to_do(ledger, done):
    ledger.start("bootstrap.1", INPUTS)
    if done:
        ledger.finish("bootstrap.1", INPUTS, DONE, 1.0)
    with pytest.raises(LedgerError) as error:
        ledger.state("bootstrap.1", changed(0.8))
    text = str(error.value)
    assert "captioner.generate.sampling.top_p = 0.9" in text and "now says 0.8" in text
    assert "--fresh bootstrap.1" in text and "\n" not in text


def test_fingerprint_ignores_key_order_and_sees_values():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(INPUTS) != fingerprint(changed(0.8))


def test_difference_names_a_config_key_before_an_upstream():
    before = {"upstream": {"x": "1"}, "seed": 1}
    assert difference(before, {"upstream": {"x": "2"}, "seed": 2}) == ("seed", 1, 2)


def test_forgetting_removes_records_and_outputs(ledger):
    ledger.finish("n", INPUTS, DONE, 1.0)
    ledger.store.put("models/n/model.safetensors", b"x")
    ledger.discard("n", ["models/n"])
    assert ledger.state("n", INPUTS) == "new" and not ledger.store.exists("models/n")


def test_foreign_directory_is_refused(ledger):
    ledger.store.put("thesis.tex", b"")
    with pytest.raises(LedgerError, match=r"not empty and not a capfilt run \(it holds thesis.tex\)"):
        ledger.check_place()


def test_committed_counts_records_only(ledger):
    for name in ("000000.json", "000000.tar", "000002.json", "dataset.json", "000001.parquet"):
        ledger.store.put(f"corpus/web/{name}", encode(RECORD))
    assert ledger.committed_shards("corpus/web") == [0, 2]
    assert len(list(ledger.records("corpus/web"))) == 2
