"""Finds images of a run, by key or by a condition on their candidates, with their texts of all rounds."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.errors import UserError
from capfilt.stages.rows import CANDIDATE_SCHEMA, shard_of_key
from capfilt.stages.shards.attempts import listed_file
from capfilt.stages.shards.commit import find_commit
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.filesystems import filesystem_options
from capfilt.stages.storage.layout import ShardFiles, candidates_folder, candidates_shard, corpus_shard
from capfilt.stages.storage.sql import open_database, open_parquet
from capfilt.stages.verdicts.conditions import Columns

KEY = re.compile(r"(?:(?P<source>[^/]+)/)?(?P<key>\d{11,})")
"""An image as the user names it: its key, or source and key."""


class ShowError(UserError):
    """An image that the run does not have."""


@dataclass(kw_only=True)
class FoundImage:
    """An image of a run with everything that is known about it."""

    row: dict[str, Any]
    """Its row in the corpus."""
    place: str | None
    """Address of the tar with the image, None if none is stored."""
    member: str | None = None
    """Name of the image in the tar, without its ending."""
    candidates: list[dict[str, Any]] = field(default_factory=list)
    """Its candidates, by round and in their order."""


def bootstrapped_rounds(run_dir: RunDir) -> list[int]:
    """Rounds that have candidates."""
    judging = (node for node in run_dir.nodes.values() if node.kind.judges)
    return [
        node.round
        for node in judging
        if any(run_dir.ledger.committed_shards(candidates_folder(node.round, s)) for s in node.sources)
    ]


def find_key(run_dir: RunDir, text: str) -> list[tuple[str, str]]:
    """(source, key) of the images that a name means: one in each source, unless it names the source.

    Raises:
        ShowError: it is no key, or no source has the image.
    """
    match = KEY.fullmatch(text)
    if match is None:
        raise ShowError(
            f"KEY {text}: no key; allowed: eleven digits or more, also after the source: web/00000000012"
        )
    sources = [match["source"]] if match["source"] else list(run_dir.config.sources)
    if unknown := [source for source in sources if source not in run_dir.config.sources]:
        known = ", ".join(run_dir.config.sources)
        raise ShowError(f"KEY {text}: the run has no source {unknown[0]}; it has {known}")
    found = [(s, match["key"]) for s in sources if _corpus_row(run_dir, s, match["key"]) is not None]
    if not found:
        raise ShowError(f"KEY {text}: no image of {', '.join(sources)} has this key")
    return found


def find_where(run_dir: RunDir, condition: str | None, limit: int) -> list[tuple[str, str]]:
    """(source, key) of the first images with a candidate of the last round that meets a condition.

    The condition is an expression over the columns of one candidate: it reads no other file and writes none.

    Args:
        condition: SQL; None: every candidate.

    Raises:
        PolicyError: it is no such expression.
        ShowError: the run has no candidates, or the expression fails on some.
    """
    rounds = bootstrapped_rounds(run_dir)
    if not rounds:
        raise ShowError(f"{run_dir.store.url}: has no candidates yet; name an image by its key")
    files = list(_candidate_files(run_dir, rounds[-1]))
    schema = pq.read_schema(io.BytesIO(run_dir.store.read(files[0]))) if files else CANDIDATE_SCHEMA
    columns = Columns(schema.remove_metadata())
    shown = f"--where {condition}"
    if condition is not None:
        columns.check(shown, condition, "condition")
    with open_database() as database:
        options = filesystem_options(run_dir.store.url, run_dir.store.options)
        addresses = [run_dir.store.address(file) for file in files]
        database.register("rows", open_parquet(addresses, schema, options))
        database.execute("SET enable_external_access = false; SET lock_configuration = true")
        where = "" if condition is None else f"WHERE ({condition}\n)"
        candidates = f"SELECT {columns.select_list(schema.names)} FROM rows"
        query = f"SELECT DISTINCT source, key FROM ({candidates}) {where} ORDER BY source, key LIMIT {limit}"
        try:
            return database.execute(query).fetchall()
        except duckdb.Error as error:
            first = str(error).splitlines()[0]
            raise ShowError(f"{shown}: fails on a candidate ({first})") from error


def read_image(run_dir: RunDir, source: str, key: str) -> FoundImage:
    """Everything that the run knows about an image."""
    row = _corpus_row(run_dir, source, key)
    assert row is not None, "the image was found before"
    stored = row["status"] == SUCCESS
    tar = corpus_shard(source, shard_of_key(key))
    record = find_commit(run_dir.store, tar.record)
    place = run_dir.store.address(tar.tar if record is None else listed_file(tar, record, "tar"))
    found = FoundImage(row=row, place=place if stored else None, member=key if stored else None)
    for round_ in bootstrapped_rounds(run_dir):
        table = _read_rows(run_dir, candidates_shard(round_, source, shard_of_key(key)), key)
        found.candidates += [] if table is None else table.to_pylist()
    return found


def _candidate_files(run_dir: RunDir, round_: int) -> Iterator[str]:
    for source in run_dir.config.of_kind("web"):
        folder = candidates_folder(round_, source)
        for record in run_dir.ledger.records(folder):
            yield listed_file(ShardFiles(folder, record.shard), record, "parquet")


def _corpus_row(run_dir: RunDir, source: str, key: str) -> dict[str, Any] | None:
    table = _read_rows(run_dir, corpus_shard(source, shard_of_key(key)), key)
    return None if table is None or not table.num_rows else table.to_pylist()[0]


def _read_rows(run_dir: RunDir, place: ShardFiles, key: str) -> pa.Table | None:
    """The rows of an image in a shard, None if the shard is not committed."""
    record = find_commit(run_dir.store, place.record)
    if record is None:
        return None
    table = pq.read_table(io.BytesIO(run_dir.store.read(listed_file(place, record, "parquet"))))
    return table.filter(pc.equal(table["key"], key))
