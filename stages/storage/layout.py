"""Every path inside a run directory; docs/schema.md describes the contents.

Paths are relative to the run directory and use `/`, as `stages.storage.store.Store` expects. A folder of
Parquet files holds, at any depth, nothing else and only one schema: pandas, pyarrow, polars, DuckDB and
`datasets` open it as one table. Runs of earlier versions have the same files in other folders: `older_place`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

CONFIG = "config.yaml"
"""The resolved config of the run."""
PLAN = "plan.json"
"""What `capfilt plan` expects the run to take; no node reads it."""
NODES = "nodes"
"""Folder of the nodes' records."""
LEASE = "lease"
"""Folder of the records that say which process works on the run directory."""
STOP_FILE = f"{LEASE}/stop"
"""While this file exists, no further shard is started."""
JOB_RECORD = f"{LEASE}/job.json"
"""Names the last Ray job that has worked on the run directory."""
STAGING = "replacing"
"""Folder of the corpus shards with which `capfilt retry` will replace committed ones."""
RECORDS = "records"
"""Folder of the shards' commit records; `records/corpus/web` has those of `corpus/web`."""
LAYOUT_RECORD = f"{RECORDS}/layout.json"
"""Written before the config: by it a run directory of this layout is known from the first moment."""
LAYOUT_VERSION = 2
DUPLICATES = "duplicates/duplicates.parquet"
"""The most frequent images of the web corpus, with their numbers of copies."""
SURPLUS = "duplicates/surplus.parquet"
"""The shards that hold surplus copies."""
VOCABULARY = "models/tokenizer"
"""Folder of the tokenizer that the first pretraining trains on the corpus."""
CROISSANT = "croissant.json"
"""Describes the candidates of a round for search engines and data loaders; `capfilt card` can write it."""
VERDICTS = "verdicts"
"""Folder of the named sets of verdicts."""
DEFAULT_VERDICTS = "default"
"""Name of the verdicts of the run itself, which are a column of the candidates."""
TABLES = "tables"
"""Folder of the tables of an ablation."""
TABLES_PAGE = f"{TABLES}.html"
"""Page that shows the tables of an ablation."""
EXPORT_RECORD = "capfilt-export.json"
"""Describes an export, in its folder: written first, and completed last."""
EXPORT_DATA = "data"
"""Folder of the shards of an export, in its folder."""

RECORD_SUFFIX = ".json"
PROVENANCE = "provenance.json"
INDEX_RECORD = "index.json"
"""Describes an index, in its folder; written last."""
INDEX_PARTS = "parts"
"""Folder of an index's Parquet files, in its folder."""
CAPTIONS_RECORD = "captions.json"
"""Describes the captions from elsewhere of a source, in their folder; written last."""
CAPTIONS_PARTS = "parts"
"""Folder of the captions with an image, in that folder."""
UNMATCHED_PARTS = "unmatched"
"""Folder of the captions that found no image, in that folder."""
DIGITS = 6
"""Digits of a shard number in file names and keys."""


@dataclass(frozen=True)
class ShardFiles:
    """Paths of the files of one shard whose Parquet file is in `folder`."""

    folder: str
    shard: int

    @property
    def name(self) -> str:
        """The shard number in file names: `000012`."""
        return shard_digits(self.shard)

    @property
    def stem(self) -> str:
        """Path of the shard's Parquet file without its suffix: the shard's name in messages."""
        return f"{self.folder}/{self.name}"

    @property
    def record(self) -> str:
        """The commit record."""
        return f"{records_folder(self.folder)}/{self.name}{RECORD_SUFFIX}"

    @property
    def parquet(self) -> str:
        return f"{self.stem}.parquet"

    @property
    def tar(self) -> str:
        return self.path(f"{self.name}.tar")

    def path(self, file_name: str) -> str:
        """Path of a tar or Parquet file of the shard."""
        return f"{images_folder(self.folder) if file_name.endswith('.tar') else self.folder}/{file_name}"


def shard_digits(shard: int) -> str:
    """A shard number in the form of file names and keys: `000012`."""
    return f"{shard:0{DIGITS}d}"


def shard_of_record(file_name: str) -> int | None:
    """The shard number in a record's file name, None if the file is not a shard's record."""
    stem = file_name.removesuffix(RECORD_SUFFIX)
    return int(stem) if stem != file_name and stem.isdigit() else None


def corpus_folder(source: str) -> str:
    """Folder of a source's rows."""
    return f"corpus/{source}"


def records_folder(folder: str) -> str:
    """Folder of the commit records of the shards in `folder`. Staged shards have them beside their files."""
    return folder if folder.startswith(f"{STAGING}/") else f"{RECORDS}/{folder}"


def images_folder(folder: str) -> str:
    """Folder of the image tars of the shards in `folder`. Staged shards have all files in one folder."""
    return f"images/{folder.removeprefix('corpus/')}" if folder.startswith("corpus/") else folder


def shard_folders(folder: str) -> list[str]:
    """All folders that hold files of the shards in `folder`, that of the records first."""
    return list(dict.fromkeys([records_folder(folder), folder, images_folder(folder)]))


def source_folders(source: str) -> list[str]:
    """All folders that hold a source's images and rows and the index of its manifest."""
    return [*shard_folders(corpus_folder(source)), index_folder(source)]


def corpus_shard(source: str, shard: int) -> ShardFiles:
    return ShardFiles(corpus_folder(source), shard)


def index_folder(source: str) -> str:
    """Folder of the index of a source's manifest."""
    return f"manifests/{source}"


def captions_folder(source: str) -> str:
    """Folder of the captions from elsewhere that are joined to the images of a source."""
    return f"captions/{source}"


def rounds_folder(round_: int) -> str:
    """Folder of the candidates of one round."""
    return f"rounds/{round_}"


def candidates_folder(round_: int, source: str) -> str:
    """Folder of the candidates of a source in one round."""
    return f"{rounds_folder(round_)}/{source}"


def candidates_shard(round_: int, source: str, shard: int) -> ShardFiles:
    return ShardFiles(candidates_folder(round_, source), shard)


def verdict_set_folder(name: str, round_: int) -> str:
    """Folder of a named set of verdicts on one round."""
    return f"{VERDICTS}/{name}/{round_}"


def verdicts_folder(name: str, round_: int, source: str) -> str:
    """Folder of the verdicts of a named set on the candidates of a source in one round."""
    return f"{verdict_set_folder(name, round_)}/{source}"


def verdicts_shard(name: str, round_: int, source: str, shard: int) -> ShardFiles:
    return ShardFiles(verdicts_folder(name, round_, source), shard)


def verdict_set_record(name: str, round_: int) -> str:
    """Describes a named set of verdicts on one round."""
    return f"{records_folder(VERDICTS)}/{name}/{round_}{RECORD_SUFFIX}"


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


def report_folder(round_: int, verdicts: str = DEFAULT_VERDICTS) -> str:
    """Folder of a round's report, or of the report by a named set of verdicts."""
    folder = f"reports/{round_}"
    return folder if verdicts == DEFAULT_VERDICTS else f"{folder}/{VERDICTS}/{verdicts}"


def task_folder(task: str) -> str:
    """Folder of the data of a downstream task."""
    return f"tasks/{task}"


def task_shard(task: str, split: str, shard: int) -> str:
    """Samples of a downstream task, "train" or "test", with their images."""
    return f"{task_folder(task)}/{split}/{shard_digits(shard)}.parquet"


def task_records(task: str) -> str:
    """Folder of the records of a downstream task's data."""
    return f"{RECORDS}/tasks/{task}"


def task_record(task: str) -> str:
    """Describes the data of a downstream task; written last."""
    return f"{task_records(task)}/data{RECORD_SUFFIX}"


def task_answers(task: str) -> str:
    """The answers of a training on questions, most frequent first."""
    return f"{task_records(task)}/answers{RECORD_SUFFIX}"


def results_folder(node: str) -> str:
    """Folder of what a finetuned model says to the test samples of its task."""
    return f"results/{node}"


def metrics_file(round_: int, verdicts: str = DEFAULT_VERDICTS) -> str:
    """Machine-readable metrics of a round, by a set of verdicts."""
    return f"{report_folder(round_, verdicts)}/metrics.json"


def comparison_file(round_: int, name: str, verdicts: str = DEFAULT_VERDICTS) -> str:
    """Page that compares a round with one of another run."""
    return f"{report_folder(round_, verdicts)}/compared/{name}"


def export_folder(round_: int) -> str:
    """Folder of the export that a run makes after a round, unless the config names another place."""
    return f"exports/{round_}"


def exported_shard(number: int) -> ShardFiles:
    """Files of a shard of an export, in the folder of the export."""
    return ShardFiles(EXPORT_DATA, number)


def node_record(node: str) -> str:
    """Record of a completed node."""
    return f"{NODES}/{node}.json"


def start_record(node: str) -> str:
    """Record of a node that has started and is not completed."""
    return f"{NODES}/{node}.started.json"


def failure_log(node: str) -> str:
    """Traceback of the error that ended a node; removed when the node completes."""
    return f"{NODES}/{node}.failure.log"


def seed_folder(seed: int, variant: str) -> str:
    """Run directory of a variant with one seed, in the folder of an ablation."""
    return f"seed-{seed}-{variant}" if variant else f"seed-{seed}"


def scores_file(table: str) -> str:
    """Scores of all rows and seeds of a table, in the folder of an ablation."""
    return f"{TABLES}/{table}.parquet"


def lease_file(number: int) -> str:
    """The lease with this number; the one with the highest number is valid."""
    return f"{LEASE}/{shard_digits(number)}{RECORD_SUFFIX}"


def older_place(name: str) -> str:
    """Where a run of an earlier version has the file or folder `name`.

    It has everything of a source in `corpus/<source>/`, and the commit records beside the files.
    """
    first, _, rest = name.partition("/")
    if first == RECORDS:
        return rest or name
    if first in ("images", "duplicates"):
        return f"corpus/{rest}"
    if first == "manifests":
        source, _, file = rest.partition("/")
        return f"corpus/{source}/index/{file.removeprefix(INDEX_PARTS).lstrip('/')}".rstrip("/")
    return name


def has_older_layout(names: Collection[str]) -> bool:
    """Whether a run directory that holds these names is one of an earlier version."""
    return CONFIG in names and "corpus" in names and RECORDS not in names
