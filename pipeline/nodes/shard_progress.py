"""Progress of a node that works shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from capfilt.pipeline.console.throughput import FinishedShard, Throughput
from capfilt.pipeline.node import Node
from capfilt.pipeline.nodes.context import RunContext
from capfilt.pipeline.nodes.failures import check_failed_fraction
from capfilt.stages.manifest.columns import is_no_column
from capfilt.stages.manifest.index import Index
from capfilt.stages.shards.commit import stage_seconds_of
from capfilt.stages.shards.records import CandidatesRecord, CommitRecord, CorpusRecord
from capfilt.stages.status import SUCCESS

EARLY_ROWS, EARLY_SHARE = 5000, 0.02
"""The limit `run.max_failed_fraction` is checked before the last shard of a source once at least this many
rows of the source, and this share of the rows of the node, have been processed."""


class ShardProgress:
    """Shows the progress of a node on its shards, and ends the node early if too many rows of a source fail.

    The progress counts rows; it counts shards if there are image tars among them, because the number of
    images in a tar is unknown until it is read.

    Args:
        folders: source → folder of its commit records.
    """

    def __init__(
        self, context: RunContext, node: Node, indexes: Mapping[str, Index], folders: Mapping[str, str]
    ) -> None:
        self.context, self.node = context, node
        self.rows = sum(index.rows for index in indexes.values())
        self.in_shards = any(index.has_tars for index in indexes.values())
        self.done_before = self.new_rows = self.new_shards = 0
        for source, index in indexes.items():
            committed = len(context.ledger.committed_shards(folders[source]))
            size = 1 if self.in_shards else context.config.sources[source].rows.shard_size
            self.done_before += min(index.shards if self.in_shards else index.rows, committed * size)
        self.tars = [source for source, index in indexes.items() if index.has_tars]
        self.images: Counter[str] = Counter()
        self.texts: Counter[str] = Counter()
        """Stored images and their texts, by source."""
        self.unfit = {source: Counter(index.unfit or {}) for source, index in indexes.items()}
        self.throughput = Throughput()
        self.status: dict[str, Counter[str]] = {source: Counter() for source in indexes}
        self.total = sum(index.shards for index in indexes.values()) if self.in_shards else self.rows
        self.done = self.done_before
        context.progress.set_total(node.name, self.total, unit="shards" if self.in_shards else "rows")
        context.progress.advance(node.name, self.done)
        context.progress.describe(node.name, self.describe)

    def __call__(self, result: dict[str, Any]) -> None:
        """Count what the chain returned for a shard.

        Raises:
            NodeFailed: a larger share of a source's rows has failed than the config allows.
        """
        records = list(msgspec.json.decode(result["records"], type=dict[str, CommitRecord]).values())
        if isinstance(record := records[0], CorpusRecord):
            self.images[record.source] += record.rows.status.get(SUCCESS, 0)
            self.texts[record.source] += record.texts
            self.unfit[record.source].update(record.unfit or {})
        record = records[-1]
        self.new_rows += record.rows.read
        self.new_shards += 1
        status = self.status[record.source]
        status.update(record.rows.status)
        if status.total() >= max(EARLY_ROWS, EARLY_SHARE * self.rows):
            check_failed_fraction(self.context.config, record.source, status)
        seconds = record.seconds | stage_seconds_of(result)
        self.context.metrics.count_shard(self.node.name, records, record.rows.status, seconds)
        self.throughput.add(
            FinishedShard(
                units=1 if self.in_shards else record.rows.read,
                rows=record.rows.read,
                images=record.rows.status.get(SUCCESS, 0),
                verdicts=record.candidates if isinstance(record, CandidatesRecord) else {},
                seconds=seconds,
            )
        )
        self.done = self.done_before + (self.new_shards if self.in_shards else self.new_rows)
        self.context.progress.advance(self.node.name, self.done)

    def describe(self, board: Mapping[str, Any]) -> str:
        """Speed, shares, time left and bottleneck, in one line."""
        return self.throughput.describe(self.total - self.done, board)

    def without_texts(self) -> list[str]:
        """Sources with image tars of whose stored images none has a text, although the config expects it."""
        return [
            source
            for source in self.tars
            if self.images[source]
            and not self.texts[source]
            and not is_no_column(self.context.config.sources[source].rows.caption_column)
        ]
