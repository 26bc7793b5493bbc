"""Every path inside a run directory; docs/schema.md describes the contents.

Paths are relative to the run directory and use `/`, as `stages.storage.store.Store` expects.
"""

from __future__ import annotations

from dataclasses import dataclass

CONFIG = "config.yaml"
"""The resolved config of the run."""
NODES = "nodes"
"""Folder of the nodes' records."""
LEASE = "lease"
"""Folder of the records that say which process works on the run directory."""
STOP_FILE = f"{LEASE}/stop"
"""While this file exists, no further shard is started."""
STAGING = "replacing"
"""Folder of the corpus shards with which `capfilt retry` will replace committed ones."""
DUPLICATES = "corpus/duplicates.parquet"
"""The most frequent images of the web corpus, with their numbers of copies."""
SURPLUS = "corpus/surplus.parquet"
"""The shards that hold surplus copies."""
VOCABULARY = "models/tokenizer"
"""Folder of the tokenizer that the first pretraining trains on the corpus."""

RECORD_SUFFIX = ".json"
PROVENANCE = "provenance.json"
INDEX_RECORD = "index.json"
"""Describes an index, in its folder; written last."""
DIGITS = 6
"""Digits of a shard number in file names and keys."""


@dataclass(frozen=True)
class ShardFiles:
    """Paths of the files of one shard in `folder`."""

    folder: str
    shard: int

    @property
    def name(self) -> str:
        """The shard number in file names: `000012`."""
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
    """A shard number in the form of file names and keys: `000012`."""
    return f"{shard:0{DIGITS}d}"


def shard_of_record(file_name: str) -> int | None:
    """The shard number in a record's file name, None if the file is not a shard's record."""
    stem = file_name.removesuffix(RECORD_SUFFIX)
    return int(stem) if stem != file_name and stem.isdigit() else None


def corpus_folder(source: str) -> str:
    """Folder of a source's images and rows."""
    return f"corpus/{source}"


def corpus_shard(source: str, shard: int) -> ShardFiles:
    return ShardFiles(corpus_folder(source), shard)


def index_folder(source: str) -> str:
    """Folder of the index of a source's manifest."""
    return f"{corpus_folder(source)}/index"


def candidates_folder(round_: int, source: str) -> str:
    """Folder of the candidates of a source in one round."""
    return f"rounds/{round_}/{source}"


def candidates_shard(round_: int, source: str, shard: int) -> ShardFiles:
    return ShardFiles(candidates_folder(round_, source), shard)


def staging_folder(source: str) -> str:
    """Folder of the shards that will replace committed shards of a source."""
    return f"{STAGING}/{source}"


def staged_shard(source: str, shard: int) -> ShardFiles:
    return ShardFiles(staging_folder(source), shard)


def model_folder(node: str) -> str:
    """Folder of the checkpoint of a training node."""
    return f"models/{node}"


def provenance_file(node: str) -> str:
    """Describes a training node's checkpoint, in its folder; written last."""
    return f"{model_folder(node)}/{PROVENANCE}"


def training_folder(node: str) -> str:
    """Folder of the intermediate checkpoints of a training node; removed when the node is done."""
    return f"train/{node}"


def log_folder(node: str) -> str:
    """Folder of a training node's step log."""
    return f"logs/{node}"


def report_folder(round_: int) -> str:
    """Folder of a round's report."""
    return f"reports/{round_}"


def metrics_file(round_: int) -> str:
    """Machine-readable metrics of a round."""
    return f"{report_folder(round_)}/metrics.json"


def node_record(node: str) -> str:
    """Record of a completed node."""
    return f"{NODES}/{node}.json"


def start_record(node: str) -> str:
    """Record of a node that has started and is not completed."""
    return f"{NODES}/{node}.started.json"


def failure_log(node: str) -> str:
    """Traceback of the error that ended a node; removed when the node completes."""
    return f"{NODES}/{node}.failure.log"


def lease_file(number: int) -> str:
    """The lease with this number; the one with the highest number is valid."""
    return f"{LEASE}/{shard_digits(number)}{RECORD_SUFFIX}"
