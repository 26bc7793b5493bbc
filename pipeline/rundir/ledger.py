"""The records of a run directory: which nodes are done or begun, and which shards are committed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from capfilt.pipeline.evaluation.calibration.result import Calibration
from capfilt.pipeline.node import NodeResult, TaskResult, ValidationResult
from capfilt.pipeline.rundir.changes import Given, describe_change
from capfilt.stages.concurrency import map_ahead
from capfilt.stages.errors import UserError
from capfilt.stages.shards.records import CommitRecord, decode_commit
from capfilt.stages.storage.layout import (
    CONFIG,
    LAYOUT_RECORD,
    LAYOUT_VERSION,
    LEASE,
    NODES,
    PLAN,
    RECORD_SUFFIX,
    RECORDS,
    ShardFiles,
    node_record,
    records_folder,
    shard_of_record,
    start_record,
)
from capfilt.stages.storage.store import DECODE_ERRORS, Store, encode_json, sha256

Record = TypeVar("Record", bound="StartRecord")
State = Literal["done", "half", "new"]
"""Of a node: done, begun and not done, or neither."""

RECORD_VERSION = 1
"""Version of the node records."""
THREADS, CHUNK = 32, 100
"""On an object store this many threads read records, each a chunk of this many at a time. On a disk records
are read one after the other, which is faster than passing them between threads."""


class LedgerError(UserError):
    """The run directory does not fit the config, or a record is damaged; the message says what to do."""


class StartRecord(Struct, kw_only=True, frozen=True):
    """`nodes/<node>.started.json`: a node that has begun."""

    fingerprint: str
    inputs: dict[str, Any]
    given: dict[str, Any] | UnsetType = UNSET
    """Files of the checkpoints that the config gives, for messages about changes (`pipeline.rundir.changes`);
    absent if none is given, and in records of earlier versions."""
    taken_from: str | UnsetType = UNSET
    """The run directory whose output was taken over instead of made (`pipeline.rundir.takeover`)."""


class ModelResults(TypedDict):
    """How well a model does."""

    images: NotRequired[int]
    texts: NotRequired[int]
    retrieval: dict[str, float]
    """{metric: percent}."""
    caption: dict[str, float]
    by_source: NotRequired[dict[str, Any]]
    """The same of each test source, if there are several."""


class NodeRecord(StartRecord, kw_only=True, frozen=True):
    """`nodes/<node>.json`: a node that is done."""

    node: str
    seconds: Annotated[float, Meta(ge=0)]
    """Seconds that the last attempt took."""
    outputs: list[str] = []
    """Folders of the run directory that hold what the node has made."""
    counts: dict[str, Any] = {}
    models: dict[str, str] | UnsetType = UNSET
    """Of a bootstrap: digests of the captioner and the filter."""
    results: dict[str, ModelResults] | UnsetType = UNSET
    """Of an evaluation, by model."""
    calibration: Calibration | UnsetType = UNSET
    """Of a calibration that had enough pairs."""
    task: TaskResult | UnsetType = UNSET
    """Of the evaluation of a downstream task."""
    validation: ValidationResult | UnsetType = UNSET
    """Of a training that was validated."""
    version: Annotated[int, Meta(ge=1)] = RECORD_VERSION


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Hash of what determines a node's output: 16 hex digits of the sha256 of its canonical JSON."""
    return sha256(encode_json(inputs))[:16]


def decode_record(data: bytes, form: type[Record]) -> Record:
    """The record of a node, also one that an earlier version wrote; unknown fields are ignored.

    Raises:
        json.JSONDecodeError, UnicodeDecodeError, msgspec.ValidationError: not JSON, a field is missing or has
            another type, or the inputs are not those of the fingerprint.
    """
    # Not `msgspec.json.decode`: configs and results may hold infinite numbers, which only `json` decodes.
    record = msgspec.convert(json.loads(data), type=form)
    if fingerprint(record.inputs) != record.fingerprint:
        raise msgspec.ValidationError("`inputs` are not those of its fingerprint")
    return record


class Ledger:
    """The records of a run directory."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def check_place(self) -> None:
        """Check that the directory is a run directory, or empty, or does not exist.

        Raises:
            LedgerError: it holds something else.
        """
        if self.store.exists(CONFIG):
            return
        others = [name for name in self.store.list() if name not in (NODES, LEASE, RECORDS, PLAN)]
        if others:
            raise LedgerError(
                f"run.dir {self.store.url}: not empty and not a capfilt run (it holds "
                f"{', '.join(others[:3])}); give an empty or a new directory"
            )

    def save_config(self, config_yaml: str) -> None:
        """Write the resolved config into the run directory."""
        if not self.store.is_older and not self.store.exists(LAYOUT_RECORD):
            self.store.put_json(LAYOUT_RECORD, {"version": LAYOUT_VERSION})
        self.store.put(CONFIG, config_yaml.encode())

    def state(
        self, node: str, inputs: Mapping[str, Any], given: Given | None = None, *, is_summary: bool = False
    ) -> State:
        """Whether a node is done, half done or new.

        Args:
            inputs: everything that determines its output, as the config has it now.
            given: the checkpoints that the config gives.
            is_summary: the node only describes what earlier nodes have made. With other inputs it is new,
                because making it again loses nothing.

        Raises:
            LedgerError: the node was done or begun with other inputs.
        """
        record: StartRecord | None = self.node(node)
        state: State = "done"
        if record is None:
            record, state = self._find(start_record(node), StartRecord), "half"
        if record is None:
            return "new"
        if record.fingerprint != fingerprint(inputs):
            if is_summary:
                return "new"
            now = json.loads(encode_json(inputs))
            change = describe_change(record.inputs, now, record.given or {}, given or {})
            raise LedgerError(
                f"{self.store.url}: node {node} was {'made' if state == 'done' else 'begun'} with {change}; "
                f"redo it with --fresh {node}, or keep it and use another run directory (--set run.dir=...)"
            )
        return state

    def start(self, node: str, inputs: Mapping[str, Any], given: Given | None = None) -> None:
        """Record that a node has begun.

        Args:
            given: the checkpoints that the config gives.
        """
        record = StartRecord(
            fingerprint=fingerprint(inputs), inputs=dict(inputs), given=dict(given) if given else UNSET
        )
        self._put(start_record(node), record)

    def start_taking(self, record: NodeRecord, taken_from: str) -> None:
        """Record that the output of a node of another run directory is being taken over."""
        started = StartRecord(
            fingerprint=record.fingerprint, inputs=record.inputs, given=record.given, taken_from=taken_from
        )
        self._put(start_record(record.node), started)

    def finish_taking(self, record: NodeRecord, taken_from: str) -> None:
        """Record that a node is done, because all of its output has been taken over."""
        self._put(node_record(record.node), msgspec.structs.replace(record, taken_from=taken_from))
        self.store.remove_file(start_record(record.node))

    def begun(self, node: str) -> StartRecord | None:
        """The record of a node that has begun and is not done, None if there is none."""
        return None if self.node(node) is not None else self._find(start_record(node), StartRecord)

    def finish(self, node: str, inputs: Mapping[str, Any], result: NodeResult, seconds: float) -> None:
        """Record that a node is done. From then on no part of it is done again."""
        started = self._find(start_record(node), StartRecord)
        record = NodeRecord(
            node=node,
            fingerprint=fingerprint(inputs),
            inputs=dict(inputs),
            given=UNSET if started is None else started.given,
            seconds=seconds,
            outputs=list(dict.fromkeys(map(self.store.place, result.outputs))),
            counts=result.counts or {},
            models=UNSET if result.models is None else result.models,
            results=UNSET if result.results is None else result.results,
            calibration=UNSET if result.calibration is None else result.calibration,
            task=UNSET if result.task is None else result.task,
            validation=UNSET if result.validation is None else result.validation,
        )
        self._put(node_record(node), record)
        self.store.remove_file(start_record(node))

    def clear_starts(self, done: Iterable[str]) -> None:
        """Remove the start records of done nodes; a process killed while it finishes a node leaves one."""
        present = set(self.store.list(NODES))
        for name in done:
            if f"{name}.started.json" in present:
                self.store.remove_file(start_record(name))

    def node(self, node: str) -> NodeRecord | None:
        """The record of a node that is done, None if the node is not done."""
        return self._find(node_record(node), NodeRecord)

    def latest(self, node: str) -> StartRecord | None:
        """The record of a node that is done or begun, None if the node is new."""
        return self.node(node) or self._find(start_record(node), StartRecord)

    def reopen(self, node: str) -> None:
        """Turn a done node into a half-done one; the run then makes the shards again that have no record."""
        record = self.node(node)
        if record is not None:
            started = StartRecord(fingerprint=record.fingerprint, inputs=record.inputs, given=record.given)
            self._put(start_record(node), started)
            self.store.remove_file(node_record(node))

    def discard(self, node: str, outputs: list[str]) -> None:
        """Remove a node's outputs, those of its shards' records first, and then its own records.

        Until everything is removed, the node counts as begun with its old inputs. So if the process is killed
        meanwhile, the shards that are left are never taken for shards of a changed config.
        """
        self.reopen(node)
        for folder in sorted(outputs, key=lambda folder: not folder.startswith(f"{RECORDS}/")):
            self.store.remove(folder)
        self.store.remove_file(start_record(node))

    def committed_shards(self, folder: str) -> list[int]:
        """Numbers of the shards in `folder` that have a commit record. Costs one listing of the records."""
        numbers = map(shard_of_record, self.store.list(records_folder(folder), suffix=RECORD_SUFFIX))
        return [number for number in numbers if number is not None]

    def records(self, folder: str, last: int = 0) -> Iterator[CommitRecord]:
        """The commit records of the shards in `folder`, in the order of the shards.

        Args:
            last: only so many of the last shards; 0 = of all.

        Raises:
            LedgerError: a record is damaged.
        """
        names = [ShardFiles(folder, shard).record for shard in self.committed_shards(folder)[-last:]]
        if self.store.is_local:
            yield from map(self._read_commit, names)
            return
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        for records in map_ahead(lambda chunk: [*map(self._read_commit, chunk)], chunks, THREADS):
            yield from records

    def _read_commit(self, name: str) -> CommitRecord:
        data = self.store.find(name)
        if data is None:
            raise FileNotFoundError(self.store.address(name))
        try:
            return decode_commit(data)
        except DECODE_ERRORS as error:
            raise self._damaged(name, error) from error

    def _find(self, name: str, form: type[Record]) -> Record | None:
        """The record `name` of a node, None if it is absent.

        Raises:
            LedgerError: the record is damaged.
        """
        data = self.store.find(name)
        try:
            return None if data is None else decode_record(data, form)
        except DECODE_ERRORS as error:
            raise self._damaged(name, error) from error

    def _damaged(self, name: str, error: Exception) -> LedgerError:
        return LedgerError(
            f"{self.store.address(name)}: damaged ({error}); "
            f"capfilt verify {self.store.url} --repair fixes it"
        )

    def _put(self, name: str, record: StartRecord) -> None:
        self.store.put_json(name, msgspec.to_builtins(record))
