"""The tokenizer of new models: a given one, that of the text start, or one trained on the corpus."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator

import pyarrow.parquet as pq

from capfilt.models.caption_text import normalize_caption
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.pipeline.rundir.start_weights import resolve_address
from capfilt.stages.storage.layout import VOCABULARY, corpus_folder, corpus_shard

MAX_SHARDS_PER_SOURCE = 1000
"""Shards per source whose texts train a vocabulary. With shards of 1,000 rows these are a million texts,
enough to determine 30,000 word pieces."""


def ensure_tokenizer(run_dir: RunDir) -> str:
    """Address of the tokenizer folder of the run's new models.

    Without a given tokenizer or text start, the first pretraining trains a WordPiece vocabulary.
    """
    config, store = run_dir.config, run_dir.store
    given = config.model.tokenizer or config.model.text_start
    if given is not None:
        return resolve_address(given)
    if not store.exists(f"{VOCABULARY}/tokenizer.json"):
        texts = map(normalize_caption, read_corpus_texts(run_dir))
        tokenizer = Tokenizer.train(texts, vocab_size=config.model.vocab_size)
        with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
            tokenizer.save(folder)
            # Readers look for tokenizer.json, so it is written last.
            for name in sorted(os.listdir(folder), key=lambda n: n == "tokenizer.json"):
                with open(os.path.join(folder, name), "rb") as stream:
                    store.put(f"{VOCABULARY}/{name}", stream.read())
        store.remove_temporaries(VOCABULARY)
    return store.address(VOCABULARY)


def read_corpus_texts(run_dir: RunDir) -> Iterator[str]:
    """Original texts of the human and web sources, in a fixed order, from the first `MAX_SHARDS_PER_SOURCE`
    shards of each."""
    for source in run_dir.config.of_kind("human", "web"):
        for shard in run_dir.ledger.committed_shards(corpus_folder(source))[:MAX_SHARDS_PER_SOURCE]:
            data = run_dir.store.read(corpus_shard(source, shard).parquet)
            for texts in pq.read_table(io.BytesIO(data), columns=["texts"])["texts"].to_pylist():
                yield from texts or []
