"""The end of an export: plain file names, what a form has beside its shards, and the record."""

from __future__ import annotations

import io
from collections import Counter

import pyarrow.parquet as pq
from msgspec.structs import replace

from capfilt.pipeline.card.croissant import describe_export
from capfilt.pipeline.card.facts import collect_facts
from capfilt.pipeline.card.readme import make_readme
from capfilt.pipeline.export.plan import ExportPlan
from capfilt.pipeline.export.target import ExportSummary, save_summary
from capfilt.pipeline.export.uids import write_uid_list
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.export.shard import EXPORTED
from capfilt.stages.shards.attempts import give_plain_names
from capfilt.stages.shards.records import ExportRecord
from capfilt.stages.storage.layout import EXPORT_DATA, RECORDS
from capfilt.stages.storage.store import FileEntry, Store, encode_json

CARD_FILE, CROISSANT_FILE = "README.md", "croissant.json"
"""What an export for `datasets` has beside its shards."""
SIZES_FILE = f"{EXPORT_DATA}/sizes.json"
"""Numbers of samples by shard, from which open_clip knows the length of an epoch."""


def finish_export(run_dir: RunDir, plan: ExportPlan, begun: ExportSummary) -> ExportSummary:
    """Complete an export whose shards are all committed. Its record is written last.

    Args:
        begun: the record of the export.

    Returns:
        The record, with files and counts.
    """
    out = plan.config.out
    give_plain_names(out, EXPORT_DATA, lambda: None)
    files: list[FileEntry] = []
    pairs: Counter[str] = Counter()
    status: Counter[str] = Counter()
    sizes: dict[str, int] = {}
    most: dict[str, int] = {}
    for record in Ledger(out).records(EXPORT_DATA):
        assert isinstance(record, ExportRecord), "the folder holds an export"
        pairs.update(record.pairs)
        status.update(record.rows.status)
        most |= {origin: max(n, most.get(origin, 0)) for origin, n in record.most.items()}
        for file in record.files:
            files.append(replace(file, name=f"{EXPORT_DATA}/{file.name}"))
            sizes[file.name] = record.rows.status.get(EXPORTED, 0)
    if plan.config.form == "open_clip":
        files.append(_put(out, SIZES_FILE, encode_json(sizes)))
    if plan.config.form == "datacomp-uids":
        files = [write_uid_list(out, range(plan.total), status[EXPORTED])]
    if plan.config.form == "hf":
        facts = collect_facts(run_dir, plan.config.round)
        card = make_readme(facts, f"{EXPORT_DATA}/*.parquet", dict(sorted(pairs.items())))
        schema = pq.read_schema(io.BytesIO(out.read(files[0].name)))
        described = describe_export(facts, files, schema)
        files.append(_put(out, CARD_FILE, card.encode()))
        files.append(_put(out, CROISSANT_FILE, encode_json(described)))
    done = replace(
        begun,
        is_done=True,
        files=files,
        images=status[EXPORTED],
        pairs=dict(sorted(pairs.items())),
        most=dict(sorted(most.items())),
        status=dict(sorted(status.items())),
    )
    save_summary(out, done)
    return done


def remove_leftovers(plan: ExportPlan) -> None:
    """Remove what only an unfinished export needs: the commit records, and the parts of a list of uids."""
    out = plan.config.out
    if out.list(RECORDS):
        out.remove(RECORDS)
    if plan.config.form == "datacomp-uids" and out.list(EXPORT_DATA):
        out.remove(EXPORT_DATA)
    for folder in ("", EXPORT_DATA):
        out.remove_temporaries(folder)


def _put(out: Store, name: str, data: bytes) -> FileEntry:
    return replace(out.put(name, data), name=name)
