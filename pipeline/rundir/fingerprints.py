"""What determines a node's output: the inputs its fingerprint is made of, and nothing else.

Left out on purpose: batch sizes of captioning and filtering, workers and threads, time limits and connections
of the fetcher, retry counts, the cluster. They change how fast a run is, not what it makes, so that a
half-done run can go on with other values.
"""

from __future__ import annotations

from typing import Any

from capfilt.models.checkpoints.files import checkpoint_digest
from capfilt.pipeline.config.load import plain
from capfilt.pipeline.config.schema import Config, TrainSection
from capfilt.pipeline.config.start_weights import identity
from capfilt.pipeline.plan import Node
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.stages.fetch.http.blocklist import block_list_digest
from capfilt.stages.rows import SCHEMA_VERSION
from capfilt.stages.storage.artifacts import absolute, local_artifact
from capfilt.stages.storage.store import Store

FETCH_FIELDS = ("backend", "base_url", "image_root", "max_bytes", "robots", "optout", "image")
"""Fetch settings that decide what is stored, with what the block lists say; the others decide how and how long the
web is asked."""


class Fingerprints:
    """Inputs and fingerprints of every node of a config; checkpoints are hashed once."""

    def __init__(self, config: Config, nodes: dict[str, Node]) -> None:
        self.config, self.nodes = config, nodes
        self._data = plain(config)
        self._inputs: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, str] = {}
        self._lists: dict[tuple[str, ...], str | None] = {}

    def inputs(self, name: str) -> dict[str, Any]:
        """JSON-like inputs of a node; `upstream` holds the fingerprints of the nodes it needs."""
        if name not in self._inputs:
            node = self.nodes[name]
            own = getattr(self, f"_{node.kind}")(node)
            upstream = {need: self.of(need) for need in node.needs}
            self._inputs[name] = {"version": SCHEMA_VERSION, **own, "upstream": upstream}
        return self._inputs[name]

    def of(self, name: str) -> str:
        """Fingerprint of a node."""
        return fingerprint(self.inputs(name))

    def corpus(self, source: str) -> dict[str, Any]:
        """Inputs of a source's corpus shards."""
        section = self._data["sources"][source]
        rows = {k: v for k, v in section["rows"].items() if k != "storage_options"}
        fetch = section["fetch"] or self._data["fetch"]
        place = {k: section[k] for k in ("images", "base_url", "serve") if section[k] is not None}
        settings = {k: fetch[k] for k in FETCH_FIELDS} | {"blocked": self._blocked(tuple(fetch["blocked"]))}
        return {"rows": rows, "place": place, "fetch": settings}

    def _blocked(self, addresses: tuple[str, ...]) -> str | None:
        """Identity of what block lists hold: their contents, not their names."""
        if addresses not in self._lists:
            self._lists[addresses] = block_list_digest(absolute(a) for a in addresses) if addresses else None
        return self._lists[addresses]

    def checkpoint(self, role: str) -> str:
        """Digest of the checkpoint given for "captioner" or "filter"."""
        section = getattr(self.config, role)
        if role not in self._digests:
            run = Store(self.config.run.dir, self.config.run.storage_options)
            path = local_artifact(section.checkpoint, f"{role}.checkpoint", run)
            self._digests[role] = checkpoint_digest(path)
        return self._digests[role]

    def _fetch(self, node: Node) -> dict[str, Any]:
        return {"sources": {source: self.corpus(source) for source in node.sources}}

    def _pretrain(self, node: Node) -> dict[str, Any]:
        continued = self.config.continue_training and node.round > 0
        raw = {"duplicates": self._data["duplicates"]} if node.round == 0 else {}
        return raw | {
            "seed": self.config.run.seed,
            "model": self._data["model"] | self._starts(),
            "pretrain": self._training("pretrain", self.config.pretrain),
            "sources": {
                name: {"parts": self.config.sources[name].parts} for name in self.config.trains_on("pretrain")
            },
            "continue_training": continued,
        }

    def _captioner(self, node: Node) -> dict[str, Any]:
        finetune = self._training("captioner", self.config.captioner.finetune)
        return {"seed": self.config.run.seed, "captioner": {"finetune": finetune}}

    def _filter(self, node: Node) -> dict[str, Any]:
        finetune = self._training("filter", self.config.filter.finetune)
        return {"seed": self.config.run.seed, "filter": {"finetune": finetune}}

    def _bootstrap(self, node: Node) -> dict[str, Any]:
        generate = {k: v for k, v in self._data["captioner"]["generate"].items() if k != "batch_size"}
        judge = {k: v for k, v in self._data["filter"]["judge"].items() if k != "batch_size"}
        given: dict[str, str | None] = {
            role: self.checkpoint(role)
            for role in ("captioner", "filter")
            if f"{role}.{node.round}" not in node.needs
        }
        for role in list(given):
            if (tokenizer := getattr(self.config, role).tokenizer) is not None:
                given[f"{role}_tokenizer"] = identity(tokenizer)
        return {
            "seed": self.config.run.seed,
            "captioner": {"generate": generate},
            "filter": {"judge": judge},
            "duplicates": self._data["duplicates"],
            "checkpoints": given,
            "sources": {source: self.corpus(source) for source in node.sources},
        }

    def _evaluate(self, node: Node) -> dict[str, Any]:
        caption = {k: v for k, v in self._data["evaluate"]["caption"].items() if k != "batch_size"}
        return {"seed": self.config.run.seed, "evaluate": self._data["evaluate"] | {"caption": caption}}

    def _report(self, node: Node) -> dict[str, Any]:
        return {"report": self._data["report"], "name": self.config.run.name}

    def _starts(self) -> dict[str, Any]:
        model = self.config.model
        return {name: identity(getattr(model, name)) for name in ("vision_start", "text_start", "tokenizer")}

    def _training(self, key: str, section: TrainSection | None) -> dict[str, Any]:
        assert section is not None, f"{key} is planned, so its section is there"
        data = plain(section)
        return {k: v for k, v in data.items() if k not in ("workers", "decode_threads", "checkpoint_layers")}
