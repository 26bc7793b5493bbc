"""Reads what a small run has measured from its records and logs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

from capfilt.pipeline.estimate.measured import MeasuredNode, MeasuredShard, SourceSize
from capfilt.pipeline.node import Node
from capfilt.pipeline.preflight.rows import SourceRows
from capfilt.pipeline.rundir.contents.totals import record_bytes
from capfilt.pipeline.rundir.ledger import NodeRecord
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.shards.records import CorpusRecord
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.layout import candidates_folder, corpus_folder, log_folder

WARM_UP_PIECES = 3
"""First pieces of a training that do not count: memory is allocated and kernels are chosen in them."""


def measure_nodes(run_dir: RunDir) -> dict[str, MeasuredNode]:
    """What every node that is done has measured."""
    found = {name: (node, run_dir.ledger.node(name)) for name, node in run_dir.nodes.items()}
    return {name: _measure(run_dir, node, record) for name, (node, record) in found.items() if record}


def _measure(run_dir: RunDir, node: Node, record: NodeRecord) -> MeasuredNode:
    if node.kind.streams_shards:
        return MeasuredNode(seconds=record.seconds, shards=tuple(_shards(run_dir, node)))
    if node.kind.trains:
        batch = run_dir.config.training(node.kind.trains).batch_size
        return MeasuredNode(
            seconds=record.seconds,
            step_seconds=tuple(step_seconds(_log(run_dir, node.name), batch)),
            steps=record.counts["steps"],
            pairs=record.counts["pairs"],
        )
    parts = record.counts.get("stage_seconds", {})
    return MeasuredNode(seconds=record.seconds, parts=parts, units=_units(record))


def _shards(run_dir: RunDir, node: Node) -> Iterable[MeasuredShard]:
    fetch = run_dir.nodes.get("fetch")
    for source in node.sources:
        images = {record.shard: record for record in run_dir.ledger.records(corpus_folder(source))}
        fetched_before = fetch is not None and source in fetch.sources
        folder = candidates_folder(node.round, source) if node.kind.judges else corpus_folder(source)
        for record in run_dir.ledger.records(folder):
            size = dict(record_bytes(record))
            if node.kind.judges and not fetched_before and record.shard in images:
                size |= record_bytes(images[record.shard])
            yield MeasuredShard(
                source=source,
                shard=record.shard,
                rows=record.rows.read,
                seconds=record.seconds,
                bytes=size,
            )


def step_seconds(log: Iterable[dict[str, Any]], batch_size: int) -> list[float]:
    """Seconds of a step in each piece of a training that counts.

    Args:
        log: the entries of its steps; those of a piece have been logged at the same time.
        batch_size: pairs of a step.
    """
    pieces = [next(of_piece) for _, of_piece in groupby(log, key=lambda entry: entry["time"])]
    counted = pieces[min(WARM_UP_PIECES, len(pieces) - 1) :]
    return [batch_size / entry["samples_per_second"] for entry in counted]


def _log(run_dir: RunDir, node: str) -> Iterable[dict[str, Any]]:
    for name in run_dir.store.list(log_folder(node), suffix=".jsonl"):
        lines = run_dir.store.read(f"{log_folder(node)}/{name}").splitlines()
        yield from map(json.loads, lines)


def _units(record: NodeRecord) -> int:
    """Images that were evaluated or exported, or texts that the filter was calibrated with."""
    if record.results:
        return max((each.get("images", 0) for each in record.results.values()), default=0)
    return int(record.counts.get("texts", record.counts.get("images", 0)))


def measure_sources(run_dir: RunDir, found: dict[str, SourceRows]) -> dict[str, SourceSize]:
    """How large every source is, in the run and in the small run.

    Args:
        found: what is known of the manifests of the run.
    """
    return {name: _measure_source(run_dir, name, rows) for name, rows in found.items()}


def _measure_source(run_dir: RunDir, name: str, found: SourceRows) -> SourceSize:
    records = [r for r in run_dir.ledger.records(corpus_folder(name)) if isinstance(r, CorpusRecord)]
    rows = sum(record.rows.read for record in records)
    per_tar = rows / len(records) if found.tars and records else 0.0
    listed = found.rows or 0
    shard_size = run_dir.config.sources[name].rows.shard_size
    return SourceSize(
        rows=listed + found.tars * per_tar,
        shards=-(-listed // shard_size) + found.tars,
        is_estimated=found.estimated or bool(found.tars),
        probed_rows=rows,
        probed_texts=sum(record.texts for record in records),
        probed_images=sum(record.rows.status.get(SUCCESS, 0) for record in records),
    )
