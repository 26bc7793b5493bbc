"""What a card says about a run, counted from its records and the urls of its corpus."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from capfilt.pipeline.card.licenses import LicenseTable, count_licenses
from capfilt.pipeline.report.formats.addresses import HOST
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.errors import UserError
from capfilt.stages.status import SUCCESS
from capfilt.stages.storage.filesystems import filesystem_options
from capfilt.stages.storage.layout import corpus_folder, corpus_shard
from capfilt.stages.storage.sql import open_database, open_parquet

TOP_SHARE = 0.1
"""Share of the hosts that a card lists: the EU's template for the public summary of training content asks for
the top 10 % of all domains by the amount of content."""
MOST_HOSTS = 1000
"""Hosts that a card lists at most."""


class CardError(UserError):
    """A run without anything that a card could describe."""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Numbers and settings of a run up to one round."""

    name: str
    round: int
    status: dict[str, int]
    """Rows of the web sources by status."""
    candidates: dict[str, dict[str, int]]
    """By origin: candidates that are `kept`, `dropped` and `unjudged`."""
    models: dict[str, str]
    """{"captioner" | "filter": digest}."""
    checkpoints: dict[str, str]
    """{"captioner" | "filter": where it comes from}."""
    foreign: list[str]
    """Captioners whose captions come from elsewhere."""
    threshold: str
    """ITM probability from which on a text was kept, in words."""
    hosts: int
    """Hosts of the stored web images."""
    top_hosts: list[tuple[str, int]]
    """(host, stored images), most first."""
    images: int
    """Stored web images that have a host."""
    fetch: dict[str, Any]
    """Settings that say which requests for leaving images out were honored."""
    licenses: list[LicenseTable]
    """Kept texts by license."""


def collect_facts(run_dir: RunDir, round_: int | None = None) -> CardFacts:
    """Count what a card says.

    Args:
        round_: None: the last round that is bootstrapped.

    Raises:
        CardError: the round is not bootstrapped.
    """
    judging = [node for node in run_dir.nodes.values() if node.kind.judges and round_ in (None, node.round)]
    records = [(node, run_dir.ledger.node(node.name)) for node in judging]
    done = [(node, record) for node, record in records if record is not None]
    if not done:
        what = "no round is" if round_ is None else f"round {round_} is not"
        raise CardError(f"{run_dir.store.url}: {what} bootstrapped; finish one with capfilt run")
    node, record = done[-1]
    config = run_dir.config
    hosts, images, top = _count_hosts(run_dir)
    status: Counter[str] = Counter()
    candidates: dict[str, Counter[str]] = {}
    for origin, verdicts in record.counts.get("candidates", {}).items():
        candidates.setdefault(origin, Counter()).update(verdicts)
    status.update(record.counts.get("status", {}))
    first = node.round == 1
    given = {"captioner": config.captioner.checkpoint, "filter": config.filter.checkpoint}
    return CardFacts(
        name=config.run.name,
        round=node.round,
        status=dict(status),
        candidates={origin: dict(counts) for origin, counts in candidates.items()},
        models=dict(record.models or {}),
        checkpoints={role: (first and address) or "trained by the run" for role, address in given.items()},
        foreign=_foreign_captioners(run_dir),
        threshold=describe_threshold(config.filter.judge.threshold),
        hosts=hosts,
        top_hosts=top,
        images=images,
        fetch=_honored_optouts(run_dir),
        licenses=count_licenses(run_dir, node.round),
    )


def _honored_optouts(run_dir: RunDir) -> dict[str, Any]:
    """What was honored for every web source: `robots`, the directives `optout` of X-Robots-Tag, and the
    other `signals`."""
    config = run_dir.config
    settings = [config.sources[source].fetch or config.fetch for source in config.of_kind("web")]
    everywhere = [name for name in settings[0].optout if all(name in each.optout for each in settings)]
    signals = [each.honored_signals if each.backend == "capfilt" else () for each in settings]
    honored = [name for name in signals[0] if all(name in each for each in signals)]
    return {"robots": all(each.robots for each in settings), "optout": everywhere, "signals": honored}


def _foreign_captioners(run_dir: RunDir) -> list[str]:
    config = run_dir.config
    named = [
        name for source in config.of_kind("web") for name in config.sources[source].rows.synthetic_columns
    ]
    return sorted({*config.candidates, *named})


def describe_threshold(value: Any) -> str:
    """The setting `filter.judge.threshold` in words: a number, `auto`, or one of both for each origin."""
    if isinstance(value, Mapping):
        return ", ".join(f"{describe_threshold(each)} for {origin} texts" for origin, each in value.items())
    return "the one that the calibration suggested" if value == "auto" else f"{value:g}"


def _count_hosts(run_dir: RunDir) -> tuple[int, int, list[tuple[str, int]]]:
    """Number of hosts of the stored web images, of images that have one, and the first hosts."""
    files = [
        run_dir.store.address(corpus_shard(source, shard).parquet)
        for source in run_dir.config.of_kind("web")
        for shard in run_dir.ledger.committed_shards(corpus_folder(source))
    ]
    schema = pa.schema([("url", pa.string()), ("status", pa.string())])
    with open_database() as database:
        options = filesystem_options(run_dir.store.url, run_dir.store.options)
        database.register("corpus", open_parquet(files, schema, options))
        pattern = HOST.replace("'", "''")
        database.execute(
            f"CREATE TABLE hosts AS SELECT lower(regexp_extract(url, '{pattern}', 1)) AS host, count(*) AS n "
            f"FROM corpus WHERE status = '{SUCCESS}' GROUP BY 1 HAVING host <> ''"
        )
        query = "SELECT count(*), coalesce(sum(n), 0)::BIGINT FROM hosts"
        total, images = database.execute(query).fetchall()[0]
        most = min(MOST_HOSTS, max(10, round(TOP_SHARE * total)))
        rows = database.execute(f"SELECT host, n FROM hosts ORDER BY n DESC, host LIMIT {most}").fetchall()
    return total, images, rows
