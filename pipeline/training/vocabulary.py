"""The tokenizer of a run: the one given, the text start's, or a WordPiece vocabulary trained on the corpus."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator

import pyarrow.parquet as pq

from capfilt.models.caption_text import normalize_caption
from capfilt.models.network.tokenizer import Tokenizer
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.start_weights import resolve_address
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.outputs import VOCABULARY
from capfilt.stages.storage.store import Store

SAMPLE_SHARDS = 1000
"""Shards per source whose texts train a vocabulary: a million texts settle 30,000 word pieces."""


def ensure_tokenizer(config: Config, run: Store, ledger: Ledger) -> str:
    """Address of the tokenizer folder new models of this run use; made once, by the first pretraining."""
    given = config.model.tokenizer or config.model.text_start
    if given is not None:
        return resolve_address(given)
    if not run.exists(f"{VOCABULARY}/tokenizer.json"):
        texts = map(normalize_caption, corpus_texts(config, run, ledger))
        tokenizer = Tokenizer.train(texts, vocab_size=config.model.vocab_size)
        with tempfile.TemporaryDirectory(prefix="capfilt-") as folder:
            tokenizer.save(folder)
            # tokenizer.json is what readers look for, so it comes last.
            for name in sorted(os.listdir(folder), key=lambda n: n == "tokenizer.json"):
                with open(os.path.join(folder, name), "rb") as stream:
                    run.put(f"{VOCABULARY}/{name}", stream.read())
        run.remove_temporaries(VOCABULARY)
    return run.address(VOCABULARY)


def corpus_texts(config: Config, run: Store, ledger: Ledger) -> Iterator[str]:
    """Texts of the human and web sources as they came, in a fixed order."""
    for source in config.of_kind("human", "web"):
        for shard in ledger.committed(f"corpus/{source}")[:SAMPLE_SHARDS]:
            data = run.read(f"corpus/{source}/{shard:06d}.parquet")
            for texts in pq.read_table(io.BytesIO(data), columns=["texts"])["texts"].to_pylist():
                yield from texts or []
