"""Counting the copies of pictures and urls over a whole corpus, and marking them in the candidates of a round.

One scan of the corpus's hashes by DuckDB, which spills to disk; nothing is shuffled between shards. What is known
only when the last image is there cannot stop the streaming pass that captions it: a bootstrap marks the shards it concerns
when all of them are done, and is done itself after that.
"""

from __future__ import annotations

import io
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import pyarrow.parquet as pq

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.signals import Stopped
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.stages.bootstrap.duplicates import (
    FLAG,
    MIN_INFORMATIVE_BITS,
    PICTURES,
    PICTURES_SCHEMA,
    SURPLUS,
    SURPLUS_SCHEMA,
    Copies,
    DuplicatesConfig,
    mark_candidates,
)
from capfilt.stages.rows import CORPUS_SCHEMA
from capfilt.stages.shards.commit import count_verdicts
from capfilt.stages.shards.write import parquet_bytes
from capfilt.stages.storage.sql import database, open_parquet
from capfilt.stages.storage.store import Store, encode_json

SHOWN = 100
"""Commonest pictures that are listed even below the limit, for the report."""
THREADS = 8
"""Shards marked at once."""
_SETTINGS = b"capfilt.duplicates"


def count_copies(config: Config, run: Store, ledger: Ledger) -> None:
    """Write `corpus/duplicates.parquet` and `corpus/surplus.parquet` of the web corpus as it is."""
    files = [
        run.address(f"corpus/{source}/{shard:06d}.parquet")
        for source in config.of_kind("web")
        for shard in ledger.committed(f"corpus/{source}")
    ]
    limit = config.duplicates.max_copies
    with database() as sql:
        sql.register("corpus", open_parquet(files, CORPUS_SCHEMA, run.options))
        sql.execute(_IMAGES)
        kinds = [_EXACT, _URL] + ([_PERCEPTUAL] if config.duplicates.perceptual else [])
        sql.execute(f"CREATE VIEW hashes AS {' UNION ALL '.join(kinds)}")
        sql.execute(_REPEATED)
        sql.execute(_WANTED, {"limit": limit, "shown": SHOWN})
        sql.execute(_PICTURES.format(limit=limit))
        pictures = sql.execute(_LISTED).to_arrow_table()
        surplus = sql.execute(_SURPLUS).to_arrow_table()
    settings = {_SETTINGS: json.dumps(_counted_by(config.duplicates)).encode()}
    run.put(SURPLUS, parquet_bytes(surplus.cast(SURPLUS_SCHEMA)))
    run.put(PICTURES, parquet_bytes(pictures.cast(PICTURES_SCHEMA).replace_schema_metadata(settings)))


def ensure_counted(config: Config, run: Store, ledger: Ledger) -> None:
    """Count, unless that is done with these settings; whoever fetches counts anew anyway."""
    if (table := run.get(PICTURES)) is not None:
        known = pq.read_schema(io.BytesIO(table)).metadata or {}
        if json.loads(known.get(_SETTINGS, b"null")) == _counted_by(config.duplicates):
            return
    count_copies(config, run, ledger)


def most_copied_images(config: Config, run: Store) -> list[dict[str, Any]]:
    """The pictures with most copies: kind, copies, source and key of the first, and surplus, the copies that are too
    many. Empty where nobody looked.

    A picture is listed once, by the hash with which it has more copies.
    """
    if config.duplicates.policy == "keep" or (table := run.get(PICTURES)) is None:
        return []
    found: dict[str, dict[str, Any]] = {}
    for row in pq.read_table(io.BytesIO(table)).to_pylist():
        source, _, key = row["first"].partition("/")
        surplus = max(0, row["copies"] - config.duplicates.max_copies)
        shown = {
            "kind": row["kind"],
            "copies": row["copies"],
            "source": source,
            "key": key,
            "surplus": surplus,
        }
        if row["copies"] > found.get(row["first"], {"copies": 0})["copies"]:
            found[row["first"]] = shown
    return list(found.values())


def surplus_texts(run: Store) -> dict[tuple[str, int], int]:
    """(source, shard) → texts that came with surplus copies."""
    table = pq.read_table(io.BytesIO(run.read(SURPLUS))).to_pylist()
    return {(row["source"], row["shard"]): row["texts"] for row in table}


def mark_round(run: RunContext, node: Node, *, fetched: bool) -> int:
    """Mark the surplus copies among the candidates of a bootstrap whose shards are all done.

    A shard's record is taken back, its Parquet replaced and the record created: whatever dies in between, the shard
    is judged again, and as every draw is keyed that gives the same rows.

    Args:
        fetched: the node fetched images, so the copies are counted anew.

    Returns:
        Shards that were marked otherwise before.

    Raises:
        Stopped: the run is to stop; what is marked is marked.
    """
    config = run.config
    if config.duplicates.policy == "keep":
        return 0
    (count_copies if fetched else ensure_counted)(config, run.store, run.ledger)
    copies, concerned = Copies.read(run.store), set(surplus_texts(run.store))

    def mark(record: dict[str, Any]) -> bool:
        if run.stop.requested:
            return False
        if (record["source"], record["shard"]) not in concerned and not record.get("duplicates"):
            return False
        return mark_shard(run.store, record, copies, config)

    marked = 0
    for source in node.sources:
        with ThreadPoolExecutor(THREADS) as pool:
            marked += sum(pool.map(mark, run.ledger.records(f"rounds/{node.round}/{source}")))
    if run.stop.requested:
        raise Stopped("all shards are judged, duplicate pictures are not marked yet")
    return marked


def mark_shard(run: Store, record: dict[str, Any], copies: Copies, config: Config) -> bool:
    """Mark one shard of candidates; False if it is as it should be."""
    folder, name = f"rounds/{record['round']}/{record['source']}", f"{record['shard']:06d}"
    before = pq.read_table(io.BytesIO(run.read(f"{folder}/{name}.parquet")))
    after = mark_candidates(
        before,
        copies,
        drop=config.duplicates.policy == "drop",
        threshold=config.filter.judge.threshold,
    )
    if after.equals(before):
        return False
    rows = after.select(["origin", "kept", "flags"]).to_pylist()
    run.remove_file(f"{folder}/{name}.json")
    file = run.put(f"{folder}/{name}.parquet", parquet_bytes(after))
    changed = {
        "files": [file],
        "candidates": count_verdicts(rows),
        "duplicates": sum(FLAG in row["flags"] for row in rows),
    }
    run.create(f"{folder}/{name}.json", encode_json(record | changed))
    return True


def _counted_by(config: DuplicatesConfig) -> dict[str, Any]:
    return {name: value for name, value in asdict(config).items() if name != "policy"}


# One scan of the corpus. 128 bits of a sha256 tell more pictures apart than there are.
_IMAGES = rf"""
CREATE TABLE images AS SELECT source, shard, key,
    TRY_CAST('0x' || sha256[1:16] AS UBIGINT) AS high, TRY_CAST('0x' || sha256[17:32] AS UBIGINT) AS low,
    CASE WHEN bit_count(TRY_CAST('0x' || phash AS UBIGINT)) = {MIN_INFORMATIVE_BITS}
        THEN TRY_CAST('0x' || phash AS UBIGINT) END AS looks,
    TRY_CAST('0x' || md5(url)[1:16] AS UBIGINT) AS url_high, TRY_CAST('0x' || md5(url)[17:32] AS UBIGINT) AS url_low,
    len(list_filter(texts, lambda text: regexp_matches(text, '\S')))::INT AS texts
FROM corpus WHERE status = 'success'
"""
_EXACT = "SELECT 'exact' AS kind, high, low, source, shard, key, texts FROM images WHERE high IS NOT NULL"
_URL = "SELECT 'url', url_high, url_low, source, shard, key, texts FROM images WHERE url_high IS NOT NULL"
_PERCEPTUAL = (
    "SELECT 'perceptual', looks, 0::UBIGINT, source, shard, key, texts FROM images WHERE looks IS NOT NULL"
)
_REPEATED = """
CREATE TABLE repeated AS SELECT kind, high, low, count(*) AS copies FROM hashes GROUP BY ALL HAVING copies > 1
"""
_WANTED = """
CREATE TABLE wanted AS SELECT * FROM repeated WHERE copies > $limit
UNION SELECT * FROM (SELECT * FROM repeated ORDER BY copies DESC, kind, high, low LIMIT $shown)
"""
_PICTURES = """
CREATE TABLE pictures AS
WITH counted AS (
    SELECT kind, high, low, copies, min(source || '/' || key, {limit}) AS places
    FROM hashes JOIN wanted USING (kind, high, low) GROUP BY ALL
)
SELECT kind, high, low, copies, places[1] AS first, CASE WHEN copies > {limit} THEN places[{limit}] END AS last
FROM counted
"""
_LISTED = """
SELECT kind, lower(lpad(to_hex(high), 16, '0') || CASE kind WHEN 'perceptual' THEN '' ELSE lpad(to_hex(low), 16, '0') END)
    AS hash, copies, first, last FROM pictures ORDER BY copies DESC, kind, hash
"""
_SURPLUS = """
SELECT source, shard, count(*) AS images, sum(texts)::BIGINT AS texts FROM (
    SELECT DISTINCT h.source, h.shard, h.key, h.texts FROM hashes h JOIN pictures p USING (kind, high, low)
    WHERE h.source || '/' || h.key > p.last
) GROUP BY ALL ORDER BY ALL
"""
