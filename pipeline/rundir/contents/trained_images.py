"""How many images a training reads that sees one text of each image in an epoch.

Commit records count texts; how many images have one is in the candidates.
"""

from __future__ import annotations

from dataclasses import dataclass

from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.verdict_sets import with_verdicts
from capfilt.stages.pairs.read import Verdicts
from capfilt.stages.rows import CANDIDATE_SCHEMA
from capfilt.stages.shards.records import CorpusRecord
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import DEFAULT_VERDICTS, candidates_folder, corpus_folder, verdicts_folder
from capfilt.stages.storage.sql import open_database, open_parquet
from capfilt.stages.storage.store import Store
from capfilt.stages.verdicts.sets import VERDICTS_SCHEMA

_CHOSEN: dict[Verdicts, str] = {
    "kept": "kept",
    "kept_web": "kept AND origin = 'web'",
    "all": "kept IS NOT NULL",
    "itc": "kept IS NOT NULL AND origin = 'web' AND itc_sim >= $least",
}


@dataclass(frozen=True, kw_only=True)
class TrainedTexts:
    """The candidates that a training reads."""

    round: int
    verdicts: Verdicts
    """Which candidates of the round."""
    verdict_set: str
    """The set of verdicts that says which are kept."""
    origins: tuple[str, ...]
    """Origins whose weight is not 0."""
    min_itc: float
    """Least ITC similarity, for the verdicts "itc"."""


def count_human_images(ledger: Ledger, source: str) -> int:
    """Stored images of a human source with a text, by the commit records.

    An image without any text counts too, unless the shard has fewer texts than images.
    """
    return sum(
        min(record.texts, record.rows.status.get(SUCCESS, 0))
        for record in ledger.records(corpus_folder(source))
        if isinstance(record, CorpusRecord)
    )


def count_web_images(store: Store, ledger: Ledger, source: str, texts: TrainedTexts) -> int:
    """Images of a web source that have a text which the training reads."""
    name, folder = texts.verdict_set, candidates_folder(texts.round, source)
    records = ledger.records(folder)
    if name == DEFAULT_VERDICTS:
        schema = CANDIDATE_SCHEMA
        files = [f"{folder}/{file.name}" for record in records for file in record.files]
    else:
        schema, place = VERDICTS_SCHEMA, verdicts_folder(name, texts.round, source)
        files = [f"{place}/{with_verdicts(store, name, record).files[-1].name}" for record in records]
    parameters = {"origins": list(texts.origins)}
    query = f"SELECT count(DISTINCT key) FROM texts WHERE origin IN $origins AND {_CHOSEN[texts.verdicts]}"
    with open_database() as sql:
        sql.register("texts", open_parquet([store.address(file) for file in files], schema, store.options))
        least = {"least": texts.min_itc} if texts.verdicts == "itc" else {}
        ((images,),) = sql.execute(query, parameters | least).fetchall()
    return int(images)
