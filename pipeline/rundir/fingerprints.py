"""Fingerprints: hashes of everything that determines a node's output, and of nothing else.

Each kind of node lists its own inputs (`pipeline.nodes`); this module holds what they have in common. Left
out on purpose are batch sizes of captioning and filtering, workers and threads, time limits and connections
of the fetcher, retry counts and the cluster: they change how fast a run is, not its results, so that a
half-done run can be resumed with other values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from capfilt.models.checkpoints.files import combine_digests, file_digests
from capfilt.pipeline.config.load import to_json_data
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.config.training import FinetuneSection
from capfilt.pipeline.node import Node
from capfilt.pipeline.rundir.ledger import fingerprint
from capfilt.pipeline.rundir.start_weights import start_identity
from capfilt.stages.fetch.urls.blocklist import block_list_digest
from capfilt.stages.manifest.config import EXTRA_KEYS
from capfilt.stages.rows import SCHEMA_VERSION
from capfilt.stages.storage.artifacts import absolute_address, ensure_local
from capfilt.stages.storage.store import Store

FETCH_FIELDS = ("backend", "base_url", "image_root", "max_bytes", "robots", "optout", "image")
"""Fetch settings that determine what is stored, together with the contents of the block lists. The other
settings determine how fast and how often requests are sent."""
TRAINING_SPEED_FIELDS = ("workers", "decode_threads", "checkpoint_layers")
"""Training settings that do not change the trained model."""
TEXTS_FIELD = "texts"
"""Setting of the pretraining of which the node's inputs hold only what differs from the defaults."""

HOLDING_OUT_FIELDS = ("hold_out", "validation")
"""Training settings that hold images out."""


class Fingerprints:
    """Inputs and fingerprints of the nodes of a config. Checkpoints and block lists are read at most once."""

    def __init__(self, config: Config, nodes: dict[str, Node]) -> None:
        self.config, self.nodes = config, nodes
        self.config_data = to_json_data(config)
        """The config as JSON-like data."""
        self._inputs: dict[str, dict[str, Any]] = {}
        self._given: dict[str, dict[str, Any]] = {}
        self._list_digests: dict[tuple[str, ...], str | None] = {}

    def inputs(self, name: str) -> dict[str, Any]:
        """Everything that determines the output of a node, as JSON-like data; `upstream` holds the
        fingerprints of the nodes that it needs."""
        if name not in self._inputs:
            node = self.nodes[name]
            own = node.kind.inputs(self, node)
            upstream = {need: self.of(need) for need in node.needs}
            self._inputs[name] = {"version": SCHEMA_VERSION, **own, "upstream": upstream}
        return self._inputs[name]

    def of(self, name: str) -> str:
        """Fingerprint of a node."""
        return fingerprint(self.inputs(name))

    def corpus(self, source: str) -> str:
        """Fingerprint of a source's corpus shards."""
        return fingerprint(self.corpus_inputs(source))

    def corpus_inputs(self, source: str) -> dict[str, Any]:
        """Everything that determines a source's corpus shards, as JSON-like data."""
        section = self.config_data["sources"][source]
        rows = {
            k: v
            for k, v in section["rows"].items()
            if k != "storage_options" and (v or k not in EXTRA_KEYS)  # a default is as before there was a key
        }
        fetch = section["fetch"] or self.config_data["fetch"]
        place = {k: section[k] for k in ("images", "base_url", "serve") if section[k] is not None}
        settings = {k: fetch[k] for k in FETCH_FIELDS}
        if fetch["optout_signals"] is not None:  # the default is as before there was a key
            settings["optout_signals"] = sorted(fetch["optout_signals"])
        settings["blocked"] = self._block_lists(tuple(fetch["blocked"]))
        return {"rows": rows, "place": place, "fetch": settings}

    def checkpoint(self, role: str) -> str:
        """Digest of the checkpoint given for "captioner", "filter" or "tasks.<name>"."""
        files = self._given_checkpoint(role)["files"]
        return combine_digests({file["name"]: file["sha256"] for file in files})

    def given(self, name: str) -> dict[str, dict[str, Any]]:
        """The given checkpoints that a node uses, by role, with the size and digest of each file."""
        roles = [role for role in self.inputs(name).get("checkpoints", {}) if role in self._given]
        return {role: self._given[role] for role in roles}

    def _given_checkpoint(self, role: str) -> dict[str, Any]:
        if role not in self._given:
            address = self._section(role).checkpoint
            run_dir = Store(self.config.run.dir, self.config.run.storage_options)
            path = Path(ensure_local(address, f"{role}.checkpoint", run_dir))
            files = [
                {"name": file, "bytes": (path / file).stat().st_size, "sha256": digest}
                for file, digest in file_digests(path).items()
            ]
            self._given[role] = {"address": address, "files": files}
        return self._given[role]

    def tokenizer(self, role: str) -> str | None:
        """Identity of the tokenizer given for a role as in `checkpoint`, None where none is given."""
        return start_identity(self._section(role).tokenizer)

    def _section(self, role: str) -> Any:
        section, _, task = role.partition(".")
        return self.config.tasks[task] if task else getattr(self.config, section)

    def start_weights(self) -> dict[str, str | None]:
        """Identity of each file that a new model starts from, by its key in the section `model`."""
        model = self.config.model
        return {
            name: start_identity(getattr(model, name)) for name in ("vision_start", "text_start", "tokenizer")
        }

    def training(self, section: FinetuneSection) -> dict[str, Any]:
        """The settings of a training that determine the trained model."""
        left_out = (*TRAINING_SPEED_FIELDS, TEXTS_FIELD)
        settings = {k: v for k, v in to_json_data(section).items() if k not in left_out}
        # Left out where nothing is held out, as in runs of versions that could not.
        return {k: v for k, v in settings.items() if k not in HOLDING_OUT_FIELDS or v}

    def _block_lists(self, addresses: tuple[str, ...]) -> str | None:
        """Digest of the contents of block lists, whatever their names are; None for no list."""
        if addresses not in self._list_digests:
            self._list_digests[addresses] = (
                block_list_digest(absolute_address(a) for a in addresses) if addresses else None
            )
        return self._list_digests[addresses]
