"""Where everything lies inside a run directory: every path, once (docs/schema.md describes the contents).

Paths are relative to the run directory and use `/`, as `stages.storage.store.Store` takes them.
"""

from __future__ import annotations

from dataclasses import dataclass

CONFIG = "config.yaml"
"""The resolved config of the run."""
NODES = "nodes"
"""Records of the nodes."""
LEASE = "lease"
"""Who works on the run directory."""
STOP_FILE = f"{LEASE}/stop"
"""While this file exists, no further shard is read."""
STAGING = "replacing"
"""Corpus shards that `capfilt retry` has ready to replace committed ones."""
DUPLICATES = "corpus/duplicates.parquet"
"""The most copied images of the web corpus, with their number of copies."""
SURPLUS = "corpus/surplus.parquet"
"""Shards that hold surplus copies."""
VOCABULARY = "models/tokenizer"
"""The tokenizer that the first pretraining trains on the corpus."""

RECORD_SUFFIX = ".json"
PROVENANCE = "provenance.json"
INDEX_RECORD = "index.json"
"""Inside an index folder: what the index holds; written last."""
DIGITS = 6
"""Digits of a shard number in file names and keys."""


@dataclass(frozen=True)
class ShardFiles:
    """The files of one shard in `folder`."""

    folder: str
    shard: int

    @property
    def name(self) -> str:
        """Number of the shard as file names have it: `000012`."""
        return shard_digits(self.shard)

    @property
    def stem(self) -> str:
        """Path of the shard's files without their suffix."""
        return f"{self.folder}/{self.name}"

    @property
    def record(self) -> str:
        """The commit record."""
        return f"{self.stem}{RECORD_SUFFIX}"

    @property
    def parquet(self) -> str:
        return f"{self.stem}.parquet"

    @property
    def tar(self) -> str:
        return f"{self.stem}.tar"


def shard_digits(shard: int) -> str:
    """A shard number as names and keys have it: `000012`."""
    return f"{shard:0{DIGITS}d}"


def shard_of_record(file_name: str) -> int | None:
    """The shard number of a record's file name, None if the file is no record of a shard."""
    stem = file_name.removesuffix(RECORD_SUFFIX)
    return int(stem) if stem != file_name and stem.isdigit() else None


def corpus_folder(source: str) -> str:
    """Folder of a source's images and rows."""
    return f"corpus/{source}"


def corpus_shard(source: str, shard: int) -> ShardFiles:
    return ShardFiles(corpus_folder(source), shard)


def index_folder(source: str) -> str:
    """Folder of the index that a source's manifest is cut into."""
    return f"{corpus_folder(source)}/index"


def candidates_folder(round_: int, source: str) -> str:
    """Folder of a source's candidates of one round."""
    return f"rounds/{round_}/{source}"


def candidates_shard(round_: int, source: str, shard: int) -> ShardFiles:
    return ShardFiles(candidates_folder(round_, source), shard)


def staging_folder(source: str) -> str:
    """Folder of a source's shards that wait to replace committed ones."""
    return f"{STAGING}/{source}"


def staged_shard(source: str, shard: int) -> ShardFiles:
    return ShardFiles(staging_folder(source), shard)


def model_folder(node: str) -> str:
    """Folder of the checkpoint that a training node writes."""
    return f"models/{node}"


def provenance_file(node: str) -> str:
    """The file of a checkpoint folder that is written last."""
    return f"{model_folder(node)}/{PROVENANCE}"


def training_folder(node: str) -> str:
    """Folder of a training's own checkpoints; removed when the node is done."""
    return f"train/{node}"


def log_folder(node: str) -> str:
    """Folder of a training's step log."""
    return f"logs/{node}"


def report_folder(round_: int) -> str:
    """Folder of a round's report."""
    return f"reports/{round_}"


def metrics_file(round_: int) -> str:
    """A round's metrics for programs."""
    return f"{report_folder(round_)}/metrics.json"


def node_record(node: str) -> str:
    """Record of a node that is done."""
    return f"{NODES}/{node}.json"


def start_record(node: str) -> str:
    """Record of a node that has begun and is not done."""
    return f"{NODES}/{node}.started.json"


def failure_log(node: str) -> str:
    """Trace of the error that ended a node; removed when the node is done."""
    return f"{NODES}/{node}.failure.log"


def lease_file(number: int) -> str:
    """The lease with this number; the highest number counts."""
    return f"{LEASE}/{shard_digits(number)}{RECORD_SUFFIX}"
