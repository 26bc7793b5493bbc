"""Which tokenizer a run's new models use, and on which texts a vocabulary is trained."""

from types import SimpleNamespace

import pytest

from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.training import vocabulary as module
from capfilt.pipeline.training.vocabulary import ensure_tokenizer, read_corpus_texts

VOCAB_SIZE = 60


def make_config(**model):
    section = {"tokenizer": None, "text_start": None, "vocab_size": VOCAB_SIZE, **model}
    kinds = {"human": "human", "empty": "web", "test": "test"}
    return SimpleNamespace(
        model=SimpleNamespace(**section),
        of_kind=lambda *wanted: [name for name, kind in kinds.items() if kind in wanted],
    )


@pytest.fixture
def open_run(scene):
    """What the functions need of a run directory, with the given keys of the model's config."""

    def committed(folder):
        return [ref.shard for ref in scene.shards] if folder == "corpus/human" else []

    def make(**model):
        ledger = SimpleNamespace(committed_shards=committed)
        return SimpleNamespace(config=make_config(**model), store=scene.run_dir, ledger=ledger)

    return make


def test_a_given_tokenizer_is_used(open_run, tmp_path):
    given = str(tmp_path / "tokenizer")
    assert ensure_tokenizer(open_run(tokenizer=given)) == given
    assert ensure_tokenizer(open_run(text_start=given)) == given
    assert ensure_tokenizer(open_run(tokenizer=given, text_start="elsewhere")) == given
    assert not open_run().store.exists("models/tokenizer/tokenizer.json")


def test_texts_are_those_of_the_human_and_web_sources(open_run):
    texts = list(read_corpus_texts(open_run()))
    assert len(texts) == 24 and texts == list(read_corpus_texts(open_run()))


def test_the_number_of_shards_is_bounded(open_run, monkeypatch):
    """A few of the scene's three shards, which have 10, 10 and 4 texts."""
    for shards, texts in ((1, 10), (2, 20), (3, 24)):
        monkeypatch.setattr(module, "MAX_SHARDS_PER_SOURCE", shards)
        assert len(list(read_corpus_texts(open_run()))) == texts


def test_a_vocabulary_is_trained_once(open_run):
    run_dir = open_run()
    address = ensure_tokenizer(run_dir)
    assert address == run_dir.store.address("models/tokenizer")
    tokenizer = Tokenizer.from_folder(address)
    assert tokenizer.vocab_size <= VOCAB_SIZE
    run_dir.ledger.committed = lambda folder: pytest.fail("the corpus was read again")
    assert ensure_tokenizer(run_dir) == address
