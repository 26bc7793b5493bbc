"""What a node of the DAG is, and what the program has to know about each kind of node.

A kind is one object, defined in one file under `pipeline/nodes/`: what its nodes write, what determines that
output, and how the work is done. Importing that file loads neither Ray nor torch; `NodeKind.run` may, when
the node starts. `pipeline.plan` says which nodes a config asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from capfilt.pipeline.evaluation.calibration.result import Calibration

if TYPE_CHECKING:
    from capfilt.pipeline.config.schema import Config
    from capfilt.pipeline.nodes.context import RunContext
    from capfilt.pipeline.rundir.fingerprints import Fingerprints
    from capfilt.stages.storage.store import FileEntry, Store


class TaskResult(TypedDict):
    """How well a model does a downstream task, beside the model that it starts from."""

    name: str
    """Name of the task in the config."""
    kind: str
    metric: str
    """The figure by which models are compared."""
    start: str
    """The model that it starts from: a node, or the address of a checkpoint."""
    samples: int
    """Test samples that were evaluated."""
    scores: dict[str, float]
    """In percent: the metric and other figures; "chance", what a model that sees no image gets for the
    metric; "start", the metric of the start without finetuning, and "start_<figure>" for the others."""


@dataclass(frozen=True)
class ValidationResult:
    """The losses of a training on human images that it has not read."""

    pairs: int
    """Pairs of these images."""
    best_step: int
    """The step with the lowest loss, whose weights are the model."""
    steps: list[int]
    """The validated steps."""
    losses: list[float]
    """The loss after each of them."""


@dataclass(frozen=True)
class NodeResult:
    """What a node has done, for its record and for the progress display."""

    summary: str
    """One line for the user."""
    outputs: tuple[str, ...] = ()
    """Folders of the run directory that hold the result."""
    counts: dict[str, Any] | None = None
    """Rows, candidates, pairs, …; None where the node counts nothing."""
    models: dict[str, str] | None = None
    """Digests of the checkpoints that were used, by role."""
    results: dict[str, Any] | None = None
    """Evaluation of each model."""
    calibration: Calibration | None = None
    """What a calibration has found."""
    task: TaskResult | None = None
    """What the evaluation of a downstream task has found."""
    validation: ValidationResult | None = None
    """How a training was validated."""


@dataclass(frozen=True, eq=False)
class NodeKind:
    """One kind of node.

    The flags tell commands that work on any node (`--fresh`, `verify`, `repair`, `retry`) how to treat nodes
    of this kind, so that none of them has to list kinds by name.
    """

    name: str
    outputs: Callable[[Node], list[str]]
    """Folders of the run directory that a node of this kind writes, and that `--fresh` removes."""
    inputs: Callable[[Fingerprints, Node], dict[str, Any]]
    """JSON-like data that determines the output; the node's fingerprint is made of it. Leave out what only
    changes how fast the work is done (batch sizes, workers, timeouts), so that a half-done node can be
    resumed with other values."""
    run: Callable[[RunContext, Node], NodeResult]
    """Does the work, or what is left of it, on the driver in a thread of its own; raises NodeFailed."""
    check_inputs: Callable[[Config, Store], None] = lambda config, run_dir: None
    """Checks that the files exist which nodes of this kind read and which no other node writes, before the
    first node starts; raises ArtifactError."""
    shared_outputs: tuple[str, ...] = ()
    """Folders that the first node of this kind writes for the others; `--fresh` of the first removes them."""
    required_files: Callable[[Node], list[str]] = lambda node: []
    """Files that `verify` looks for once the node is done; shards and checkpoints list their own files."""
    listed_files: Callable[[Store, Node], dict[str, FileEntry]] = lambda store, node: {}
    """{path: size and sha256} of files that `verify` hashes once the node is done; raises UserError if the
    record that lists them is damaged. Shards and checkpoints list their own files."""
    streams_shards: bool = False
    """The node commits shard by shard: it can be stopped, verified and repaired by shard."""
    judges: bool = False
    """The node makes candidates from corpus shards."""
    trains: Literal["", "pretrain", "captioner", "filter", "shared", "task"] = ""
    """The node writes a checkpoint to `models/<node>/`, trained with the settings of this section of the
    config ("shared": of `filter.finetune`, with the losses of both; "task": of the task's `finetune`); empty
    for a node that trains nothing."""
    summarizes: bool = False
    """The output describes the output of earlier nodes: it is stale as soon as one of them has work again."""
    measures_on: tuple[str, ...] = ()
    """Kinds of source (human, web, test) on whose images the node measures models: the output is stale as
    soon as the images of such a source change."""

    def __repr__(self) -> str:
        return f"NodeKind({self.name!r})"

    def is_stale_after(self, source_kinds: Collection[str]) -> bool:
        """Whether the output is stale once corpus shards have changed, and has to be removed and made again.

        Trained models never are: they were right when they were made.

        Args:
            source_kinds: kinds of the sources whose shards have changed; empty if only other outputs have.
        """
        return self.summarizes or not set(self.measures_on).isdisjoint(source_kinds)


@dataclass(frozen=True)
class Node:
    """One step of the DAG."""

    name: str
    kind: NodeKind
    round: int
    needs: tuple[str, ...]
    """Names of the nodes whose output this one reads."""
    sources: tuple[str, ...] = ()
    """Sources whose shards the node fetches or judges."""
    task: str = ""
    """The downstream task that the node belongs to."""
    member: int = 1
    """Number of the model in the ensemble of its round."""

    @property
    def outputs(self) -> list[str]:
        """Folders of the run directory that the node writes."""
        return self.kind.outputs(self)

    def trained_models(self, role: str) -> list[str]:
        """The nodes of this round that train the captioner or the filter which this node uses: one, or those
        of an ensemble in their order; [] if the config gives it."""
        own, shared = f"{role}.{self.round}", f"shared.{self.round}"
        return [need for need in self.needs if need in (own, shared) or need.startswith(f"{own}.")]


def member_names(role: str, round_: int, count: int) -> list[str]:
    """Names of the nodes that train the captioners or the filters of a round: `captioner.1`, `captioner.1.2`,
    … The first has the name of an only one, so that a run with more of them can take it over."""
    first = f"{role}.{round_}"
    return [first, *(f"{first}.{member}" for member in range(2, count + 1))]
