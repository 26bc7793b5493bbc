"""What a run has done: fingerprints of nodes, their records, and the commit records of their shards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from capfilt.stages.storage.store import Store, encode_json, sha256

State = Literal["done", "half", "new"]

THREADS, CHUNK = 32, 100
"""Records on a store are read so many at once, each thread taking a chunk. On a disk one after the other is faster: handing
them between threads costs more than reading."""


NO_JSON = (json.JSONDecodeError, UnicodeDecodeError)
"""What a record raises that is damaged."""


class LedgerError(ValueError):
    """The run directory does not fit the config; the message says what changed and what to do."""


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """Hash of what determines a node's output: sha256 of its canonical JSON, first 16 hex digits."""
    return sha256(encode_json(inputs))[:16]


class Ledger:
    """The records of a run directory."""

    def __init__(self, run: Store) -> None:
        self.run = run

    def check_place(self) -> None:
        """The directory is this program's, or empty, or new.

        Raises:
            LedgerError: it holds something else.
        """
        if self.run.exists("config.yaml"):
            return
        strangers = [name for name in self.run.list() if name not in ("nodes", "lease")]
        if strangers:
            raise LedgerError(
                f"run.dir {self.run.url}: not empty and not a capfilt run (it holds {', '.join(strangers[:3])}); "
                "give an empty or a new directory"
            )

    def save_config(self, config_yaml: str) -> None:
        """Keep the resolved config beside what it made."""
        self.run.put("config.yaml", config_yaml.encode())

    def state(self, node: str, inputs: Mapping[str, Any]) -> State:
        """Whether a node is done, half done or new.

        Raises:
            LedgerError: it was done or begun with other inputs.
        """
        for name, state in ((f"nodes/{node}.json", "done"), (f"nodes/{node}.started.json", "half")):
            record = self._find(name)
            if record is not None:
                if record["fingerprint"] != fingerprint(inputs):
                    self._refuse(node, record["inputs"], inputs, state)
                return state  # type: ignore[return-value]
        return "new"

    def _refuse(self, node: str, before: Any, now: Mapping[str, Any], state: str) -> None:
        path, old, new = difference(before, json.loads(encode_json(now)))
        raise LedgerError(
            f"{self.run.url}: node {node} was {'made' if state == 'done' else 'begun'} with {path} = {_short(old)}, "
            f"the config now says {_short(new)}; redo it with --fresh {node}, "
            "or keep it and use another run directory (--set run.dir=...)"
        )

    def start(self, node: str, inputs: Mapping[str, Any]) -> None:
        self.run.put_json(
            f"nodes/{node}.started.json", {"fingerprint": fingerprint(inputs), "inputs": dict(inputs)}
        )

    def finish(self, node: str, inputs: Mapping[str, Any], **record: Any) -> None:
        """Record a node as done; nothing of it is done again from here on."""
        self.run.put_json(
            f"nodes/{node}.json",
            {"node": node, "fingerprint": fingerprint(inputs), "inputs": dict(inputs), **record},
        )
        self.run.remove_file(f"nodes/{node}.started.json")

    def clear_starts(self, done: Iterable[str]) -> None:
        """Remove start records that a kill has left beside these nodes' end records."""
        there = set(self.run.list("nodes"))
        for name in done:
            if f"{name}.started.json" in there:
                self.run.remove_file(f"nodes/{name}.started.json")

    def node(self, node: str) -> Any:
        """Record of a finished node, None if it is not done."""
        return self._find(f"nodes/{node}.json")

    def begun(self, node: str) -> Any:
        """Fingerprint and inputs of a node that is done or begun, None if it is new."""
        return self.node(node) or self._find(f"nodes/{node}.started.json")

    def _find(self, name: str) -> Any:
        """A record, None if it is absent.

        Raises:
            LedgerError: it is damaged.
        """
        try:
            return self.run.find_json(name)
        except NO_JSON as error:
            raise LedgerError(
                f"{self.run.address(name)}: damaged, it is no JSON ({error}); "
                f"capfilt verify {self.run.url} --repair mends it"
            ) from error

    def _read(self, name: str) -> Any:
        record = self._find(name)
        if record is None:
            raise FileNotFoundError(self.run.address(name))
        return record

    def reopen(self, node: str) -> None:
        """A node that was done is half done: shards whose records were taken back are made again."""
        record = self.node(node)
        if record is not None:
            kept = {name: record[name] for name in ("fingerprint", "inputs")}
            self.run.put_json(f"nodes/{node}.started.json", kept)
            self.run.remove_file(f"nodes/{node}.json")

    def forget(self, node: str, outputs: list[str]) -> None:
        """Remove a node's outputs, and then what is known of it.

        Until all of them are gone it counts as begun with its old inputs: shards that a kill has left are never taken
        for ones of a changed config.
        """
        self.reopen(node)
        for folder in outputs:
            self.run.remove(folder)
        self.run.remove_file(f"nodes/{node}.started.json")

    def committed(self, folder: str) -> list[int]:
        """Shards of `folder` whose commit record stands, by one listing."""
        names = self.run.list(folder, suffix=".json")
        return [int(n[:-5]) for n in names if n[:-5].isdigit()]

    def records(self, folder: str) -> Iterator[dict[str, Any]]:
        """Commit records of `folder` in shard order."""
        names = [f"{folder}/{shard:06d}.json" for shard in self.committed(folder)]
        if self.run.is_local:
            yield from map(self._read, names)
            return
        chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
        with ThreadPoolExecutor(THREADS) as pool:
            for records in pool.map(lambda chunk: [self._read(name) for name in chunk], chunks):
                yield from records


def difference(before: Any, now: Any, path: str = "") -> tuple[str, Any, Any]:
    """Dotted path and both values of the first difference of two JSON values, config keys before upstreams."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now), key=lambda k: (k == "upstream", k))
        for key in keys:
            if before.get(key) != now.get(key):
                return difference(before.get(key), now.get(key), f"{path}.{key}" if path else key)
    return path, before, now


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
