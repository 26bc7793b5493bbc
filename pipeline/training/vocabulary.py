"""The tokenizer of a run: the one given, the text start's, or a WordPiece vocabulary trained on the corpus."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator

import pyarrow.parquet as pq

from capfilt.models.caption_text import normalize_caption
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.config.start_weights import resolve_address
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.storage.layout import VOCABULARY, corpus_folder, corpus_shard

SAMPLE_SHARDS = 1000
"""Shards per source whose texts train a vocabulary: a million texts settle 30,000 word pieces."""


def ensure_tokenizer(run_dir: RunDir) -> str:
    """Address of the tokenizer folder new models of this run use; made once, by the first pretraining."""
    config, run = run_dir.config, run_dir.store
    given = config.model.tokenizer or config.model.text_start
    if given is not None:
        return resolve_address(given)
    if not run.exists(f"{VOCABULARY}/tokenizer.json"):
        texts = map(normalize_caption, corpus_texts(run_dir))
        tokenizer = Tokenizer.train(texts, vocab_size=config.model.vocab_size)
        with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
            tokenizer.save(folder)
            # tokenizer.json is what readers look for, so it comes last.
            for name in sorted(os.listdir(folder), key=lambda n: n == "tokenizer.json"):
                with open(os.path.join(folder, name), "rb") as stream:
                    run.put(f"{VOCABULARY}/{name}", stream.read())
        run.remove_temporaries(VOCABULARY)
    return run.address(VOCABULARY)


def corpus_texts(run_dir: RunDir) -> Iterator[str]:
    """Texts of the human and web sources as they came, in a fixed order."""
    for source in run_dir.config.of_kind("human", "web"):
        for shard in run_dir.ledger.committed_shards(corpus_folder(source))[:SAMPLE_SHARDS]:
            data = run_dir.store.read(corpus_shard(source, shard).parquet)
            for texts in pq.read_table(io.BytesIO(data), columns=["texts"])["texts"].to_pylist():
                yield from texts or []
