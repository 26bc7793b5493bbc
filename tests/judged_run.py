"""A run directory whose first round is bootstrapped: candidates with scores, made without a model."""

import math
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.pipeline.config.load import dump_config, parse_config
from capfilt.pipeline.maintenance.rejudge import rejudge_round
from capfilt.pipeline.node import NodeResult
from capfilt.stages.rows import CANDIDATE_SCHEMA, row_key, table_of
from capfilt.stages.shards.commit import count_verdicts
from capfilt.stages.shards.records import CandidatesRecord, RowCounts, decode_commit, encode
from capfilt.stages.shards.write import encode_parquet
from capfilt.stages.storage.layout import candidates_shard
from capfilt.stages.verdicts.rules import PolicyText
from tests.runs import walk, writable

THRESHOLD = 0.5


class JudgedRun:
    """Two web sources, `a` with three shards and `b` with two, of 20 images with 3 candidates each.

    Args:
        place: address of the run directory.
        extra: {column: Arrow type} of columns that the candidates of source `a` have beside ours.
        options: keys of the section `run`.
    """

    def __init__(self, place, extra=None, **options):
        rows = {"manifest": "manifest.csv", "shard_size": 20}
        self.config = parse_config(
            {
                "run": {"dir": str(place), **options},
                "sources": {name: {"kind": "web", "rows": rows, "images": "images"} for name in "ab"},
                "captioner": {"checkpoint": "c"},
                "filter": {"checkpoint": "f"},
            },
            "test",
        )
        self.extra = extra or {}
        self.rows = []

    @property
    def run_dir(self):
        return writable(self.config)

    @property
    def store(self):
        return self.run_dir.store

    def create(self):
        """Write the candidates and the records of the round."""
        self.run_dir.ledger.save_config(dump_config(self.config))
        for source, shards in (("a", 3), ("b", 2)):
            for shard in range(shards):
                self.write(source, shard, seed=shard)
        self.finish()
        return self

    def finish(self):
        """Record that the bootstrap is done."""
        done = NodeResult("", counts={"rows": 100, "status": {"success": 100}})
        self.run_dir.ledger.finish("bootstrap.1", {}, done, 1.0)

    def write(self, source, shard, seed):
        """Write a shard of candidates, or replace it by one with other scores."""
        rows = self.make_rows(source, shard, seed)
        self.rows = [r for r in self.rows if (r["source"], r["shard"]) != (source, shard)] + rows
        place = candidates_shard(1, source, shard)
        ours = [{name: row[name] for name in row if name not in self.extra} for row in rows]
        table = table_of(ours, CANDIDATE_SCHEMA)
        for name, type_ in self.extra.items() if source == "a" else ():
            table = table.append_column(name, pa.array([row[name] for row in rows], type_))
        record = CandidatesRecord(
            source=source,
            shard=shard,
            round=1,
            fingerprint="f",
            files=(self.store.put(place.parquet, encode_parquet(table)),),
            rows=RowCounts(read=20, status={"success": 20}),
            candidates=count_verdicts(rows),
        )
        self.store.put(place.record, encode(record))

    def make_rows(self, source, shard, seed):
        draw = random.Random(f"{source} {shard} {seed}")
        flags = ([], [], ["duplicate"], ["degenerate"])
        rows = []
        for image in range(20):
            for origin, index in (("web", 0), ("synthetic", 0), ("synthetic", 1)):
                is_empty = origin == "web" and image % 10 == 9
                # Few different values, so that many scores are equal.
                itm = None if is_empty else round(draw.random(), 1)
                rows.append(
                    {
                        "key": row_key(shard, image),
                        "source": source,
                        "shard": shard,
                        "round": 1,
                        "origin": origin,
                        "caption_index": index,
                        "text": "" if is_empty else f"text {'of a dog ' * draw.randrange(3)}{image}",
                        "itm_prob": itm,
                        "itc_sim": None if is_empty else draw.uniform(-1, 1),
                        "kept": None if is_empty else itm >= THRESHOLD,
                        "threshold": THRESHOLD,
                        "flags": ["empty"] if is_empty else draw.choice(flags),
                        "captioner": "c" * 16 if origin == "synthetic" else None,
                        "url": f"http://host{image % 3}.example/{image}",
                        "version": 1,
                        **{name: draw.choice([None, 0.25, 0.5]) for name in self.extra if source == "a"},
                    }
                )
        return rows

    def files(self, folder="rounds/1"):
        """Local paths of the Parquet files in a folder of the run directory."""
        return [str(path) for path in sorted(Path(self.config.run.dir, folder).rglob("*.parquet"))]


def make(run, name="set", *, keep=(), drop=(), flags=(), round_=None):
    """Make a set, as `capfilt rejudge` does."""
    return rejudge_round(run.run_dir, name, PolicyText(keep=keep, drop=drop, drop_flags=flags), round_)


def verdicts(run, name="set"):
    """{(source, key, origin, caption_index): kept} of a set, read by pyarrow."""
    rows = [row for file in run.files(f"verdicts/{name}/1") for row in pq.read_table(file).to_pylist()]
    return {(r["source"], r["key"], r["origin"], r["caption_index"]): r["kept"] for r in rows}


def records(run):
    """The commit records of the candidates, by source and shard."""
    places = [candidates_shard(1, source, shard) for source, n in (("a", 3), ("b", 2)) for shard in range(n)]
    return [decode_commit(run.store.read(place.record)) for place in places]


def snapshot(run):
    """{name: content} of the files of a run directory, without its config, which names the directory."""
    return {name: run.store.read(name) for name in walk(run.store) if name != "config.yaml"}


def name_of(row):
    return row["source"], row["key"], row["origin"], row["caption_index"]


def expected(run, is_kept):
    """The content of `verdicts`, computed row by row."""
    return {
        (r["source"], r["key"], r["origin"], r["caption_index"]): None
        if r["kept"] is None
        else bool(is_kept(r))
        for r in run.rows
    }


def top(run, share, score, part=lambda row: True, group=lambda row: None):
    """Whether a row is in the highest share of its group, by sorting all of them."""
    cuts = {}
    for value in {group(row) for row in run.rows if part(row)}:
        scores = sorted(
            (score(r) for r in run.rows if part(r) and group(r) == value and r["kept"] is not None
             and score(r) is not None), reverse=True
        )  # fmt: skip
        cuts[value] = scores[math.ceil(len(scores) * share) - 1] if scores else math.inf
    return lambda row: score(row) is not None and score(row) >= cuts[group(row)]


def f32(value):
    return None if value is None else pa.scalar(value, pa.float32()).as_py()


def itm(row):
    return f32(row["itm_prob"])


def itc(row):
    return f32(row["itc_sim"])
