"""Counting the copies of images and urls over a whole corpus, and marking them in the candidates of a round.

DuckDB scans the hashes of the corpus once and spills to disk; nothing is shuffled between shards. The number
of copies is known only when the last image has been downloaded, so the streaming pass cannot use it: a
bootstrap marks the affected shards after all of them have been judged, and only then is the node done.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.signals import NodeStopped
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.bootstrap.duplicates import (
    DUPLICATE_IMAGE,
    DUPLICATES_SCHEMA,
    MIN_INFORMATIVE_BITS,
    SURPLUS_SCHEMA,
    DuplicatesConfig,
    SurplusCopies,
    mark_candidates,
)
from capfilt.stages.concurrency import map_ahead
from capfilt.stages.rows import CORPUS_SCHEMA, ROW_DIGITS
from capfilt.stages.shards.commit import count_verdicts
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, encode
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import (
    DUPLICATES,
    SURPLUS,
    candidates_folder,
    candidates_shard,
    corpus_folder,
    corpus_shard,
)
from capfilt.stages.storage.sql import iter_tables, open_database
from capfilt.stages.storage.store import Store

if TYPE_CHECKING:
    from capfilt.pipeline.nodes.context import RunContext

LISTED_BELOW_LIMIT = 100
"""This many of the most copied images are listed for the report even if they are within the limit."""
THREADS = 8
"""Shards that are marked at the same time."""
COUNTED_SCHEMA = pa.schema(
    [CORPUS_SCHEMA.field(name) for name in ("key", "url", "texts", "status", "sha256", "phash")]
)
"""Columns of the corpus from which copies are counted; the key names the shard."""
_SETTINGS = b"capfilt.duplicates"
"""Key of the Parquet metadata that holds the settings with which the copies were counted."""


def count_copies(run_dir: RunDir) -> None:
    """Write `duplicates/duplicates.parquet` and `duplicates/surplus.parquet` for the committed web corpus."""
    config, store = run_dir.config, run_dir.store
    limit = config.duplicates.max_copies
    with open_database() as sql:
        sql.register("corpus", COUNTED_SCHEMA.empty_table())
        sql.execute(f"CREATE TABLE images AS {_IMAGES}", {"source": ""})
        for source in config.of_kind("web"):
            shards = run_dir.ledger.committed_shards(corpus_folder(source))
            files = (corpus_shard(source, shard).parquet for shard in shards)
            for table in iter_tables(store, files, COUNTED_SCHEMA):
                sql.register("corpus", table)
                sql.execute(f"INSERT INTO images {_IMAGES}", {"source": source})
        kinds = [_EXACT, _URL] + ([_PERCEPTUAL] if config.duplicates.perceptual else [])
        sql.execute(f"CREATE VIEW hashes AS {' UNION ALL '.join(kinds)}")
        sql.execute(_REPEATED)
        sql.execute(_SELECTED, {"limit": limit, "listed": LISTED_BELOW_LIMIT})
        sql.execute(_COPIED.format(limit=limit))
        listed = sql.execute(_LISTED).to_arrow_table()
        surplus = sql.execute(_SURPLUS).to_arrow_table()
    settings = {_SETTINGS: json.dumps(_counted_by(config.duplicates)).encode()}
    store.put(SURPLUS, encode_parquet(surplus.cast(SURPLUS_SCHEMA)))
    store.put(DUPLICATES, encode_parquet(listed.cast(DUPLICATES_SCHEMA).replace_schema_metadata(settings)))


def ensure_counted(run_dir: RunDir) -> None:
    """Count the copies, unless the run directory has a count with these settings. A node that downloads
    images counts again without asking."""
    if _settings_of_count(run_dir.store) != _counted_by(run_dir.config.duplicates):
        count_copies(run_dir)


def _settings_of_count(store: Store) -> Any:
    """The settings of the count that a run directory has; None if it has none, or if a table is damaged: the
    count is made again then."""
    if (table := store.find(DUPLICATES)) is None:
        return None
    try:
        surplus_texts(store)
        metadata = pq.read_table(io.BytesIO(table)).schema.metadata or {}
        return json.loads(metadata.get(_SETTINGS, b"null"))
    except (pa.ArrowException, OSError, ValueError, KeyError):
        return None


def most_copied_images(config: Config, store: Store) -> list[dict[str, Any]]:
    """The images with most copies, each once, by the hash that finds most copies of it.

    Returns:
        For each image the kind of the hash, the number of copies, source and key of the first copy, and
        `surplus`, the number of copies above the limit. Empty where copies were not counted.
    """
    if config.duplicates.policy == "keep" or (table := store.find(DUPLICATES)) is None:
        return []
    images: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(io.BytesIO(table)).to_pylist():
        first, copies = row["first"], row["copies"]
        if first in images and images[first]["copies"] >= copies:
            continue
        source, _, key = first.partition("/")
        surplus = max(0, copies - config.duplicates.max_copies)
        images[first] = {
            "kind": row["kind"],
            "copies": copies,
            "source": source,
            "key": key,
            "surplus": surplus,
        }
    return list(images.values())


def surplus_texts(store: Store) -> dict[tuple[str, int], int]:
    """(source, shard) → number of texts of surplus copies."""
    table = pq.read_table(io.BytesIO(store.read(SURPLUS))).to_pylist()
    return {(row["source"], row["shard"]): row["texts"] for row in table}


def mark_round(
    context: RunContext,
    node: Node,
    *,
    fetched: bool,
    on_record: Callable[[CommitRecord], None] = lambda record: None,
) -> int:
    """Mark the surplus copies among the candidates of a bootstrap whose shards are all done.

    For each shard the record is removed, the Parquet file replaced and the record created again. If the
    process dies in between, the shard is judged again; because every random draw is keyed, the rows are the
    same.

    Args:
        fetched: whether the node has downloaded images, so that the copies have to be counted again.
        on_record: receives the record of every shard as it is in the end, so that a caller who adds them up
            does not read them again.

    Returns:
        The number of shards whose marks have changed.

    Raises:
        NodeStopped: a signal has asked the run to stop; the marked shards stay marked.
    """
    run_dir, store = context.run_dir, context.store
    records = (
        record
        for source in node.sources
        for record in run_dir.ledger.records(candidates_folder(node.round, source))
    )
    if context.config.duplicates.policy == "keep":
        for record in records:
            on_record(record)
        return 0
    context.progress.describe(node.name, "counting the copies of images")
    (count_copies if fetched else ensure_counted)(run_dir)
    context.progress.describe(node.name, "marking surplus copies of images")
    copies, affected = SurplusCopies.read(store), set(surplus_texts(store))

    def take_affected() -> Iterator[CandidatesRecord]:
        for record in records:
            assert isinstance(record, CandidatesRecord), "the folder holds candidates"
            if (record.source, record.shard) in affected or record.duplicates:
                yield record
            else:
                on_record(record)

    def mark(record: CandidatesRecord) -> tuple[CandidatesRecord, bool]:
        marked = None if context.stop.requested else mark_shard(run_dir, record, copies)
        return marked or record, marked is not None

    changed = 0
    for record, has_changed in map_ahead(mark, take_affected(), THREADS):
        on_record(record)
        changed += has_changed
    if context.stop.requested:
        raise NodeStopped("all shards are judged, duplicate images are not marked yet")
    return changed


def mark_shard(run_dir: RunDir, record: CandidatesRecord, copies: SurplusCopies) -> CandidatesRecord | None:
    """Mark the surplus copies in one shard of candidates.

    Returns:
        The new record; None if no mark has changed.
    """
    config, store = run_dir.config, run_dir.store
    place = candidates_shard(record.round, record.source, record.shard)
    before = pq.read_table(io.BytesIO(store.read(place.parquet)))
    after = mark_candidates(
        before,
        copies,
        drop=config.duplicates.policy == "drop",
        thresholds=run_dir.judge_settings(record.round).numbers,
    )
    if after.equals(before):
        return None
    rows = after.select(["origin", "kept", "flags"]).to_pylist()
    store.remove_file(place.record)
    file = store.put(place.parquet, encode_parquet(after))
    marked = replace(
        record,
        files=(file,),
        candidates=count_verdicts(rows),
        duplicates=sum(DUPLICATE_IMAGE in row["flags"] for row in rows),
    )
    store.create(place.record, encode(marked))
    return marked


def _counted_by(config: DuplicatesConfig) -> dict[str, Any]:
    """The settings on which the count depends."""
    return {name: value for name, value in asdict(config).items() if name != "policy"}


# Hashes of every stored image. 128 bits of a sha256 are enough to tell all images apart.
_IMAGES = rf"""
SELECT $source::VARCHAR AS source, left(key, -{ROW_DIGITS})::BIGINT AS shard, key,
    TRY_CAST('0x' || sha256[1:16] AS UBIGINT) AS high, TRY_CAST('0x' || sha256[17:32] AS UBIGINT) AS low,
    CASE WHEN bit_count(TRY_CAST('0x' || phash AS UBIGINT)) >= {MIN_INFORMATIVE_BITS}
        THEN TRY_CAST('0x' || phash AS UBIGINT) END AS perceptual,
    TRY_CAST('0x' || md5(url)[1:16] AS UBIGINT) AS url_high,
    TRY_CAST('0x' || md5(url)[17:32] AS UBIGINT) AS url_low,
    len(list_filter(texts, lambda text: regexp_matches(text, '\S')))::INT AS texts
FROM corpus WHERE status = 'success'
"""
# Rows of the view `hashes`: one for every image and kind of hash.
_EXACT = """
SELECT 'exact' AS kind, high, low, source, shard, key, texts FROM images WHERE high IS NOT NULL
"""
_URL = """
SELECT 'url', url_high, url_low, source, shard, key, texts FROM images WHERE url_high IS NOT NULL
"""
_PERCEPTUAL = """
SELECT 'perceptual', perceptual, 0::UBIGINT, source, shard, key, texts FROM images
WHERE perceptual IS NOT NULL
"""
# Hashes with several images, and of these the ones over the limit and the most frequent ones.
_REPEATED = """
CREATE TABLE repeated AS SELECT kind, high, low, count(*) AS copies FROM hashes
GROUP BY ALL HAVING copies > 1
"""
_SELECTED = """
CREATE TABLE selected AS SELECT * FROM repeated WHERE copies > $limit
UNION SELECT * FROM (SELECT * FROM repeated ORDER BY copies DESC, kind, high, low LIMIT $listed)
"""
# First copy of each, and the last copy within the limit (null if none is over it).
_COPIED = """
CREATE TABLE copied AS
WITH counted AS (
    SELECT kind, high, low, copies, min(source || '/' || key, {limit}) AS places
    FROM hashes JOIN selected USING (kind, high, low) GROUP BY ALL
)
SELECT kind, high, low, copies, places[1] AS first,
    CASE WHEN copies > {limit} THEN places[{limit}] END AS last
FROM counted
"""
_LISTED = """
SELECT kind,
    lower(lpad(to_hex(high), 16, '0')
        || CASE kind WHEN 'perceptual' THEN '' ELSE lpad(to_hex(low), 16, '0') END) AS hash,
    copies, first, last
FROM copied ORDER BY copies DESC, kind, hash
"""
# Copies after the last one within the limit, by shard.
_SURPLUS = """
SELECT source, shard, count(*) AS images, sum(texts)::BIGINT AS texts FROM (
    SELECT DISTINCT h.source, h.shard, h.key, h.texts FROM hashes h JOIN copied p USING (kind, high, low)
    WHERE h.source || '/' || h.key > p.last
) GROUP BY ALL ORDER BY ALL
"""
