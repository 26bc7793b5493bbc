"""The method as a DAG: which nodes a config asks for, and what each of them needs.

    fetch → pretrain.0 → captioner.r ∥ filter.r → bootstrap.r → pretrain.r → evaluate.r → report.r,  r = 1…R

With both checkpoints given and nothing to pretrain, `bootstrap.1 → report.1` is all there is, and images are
fetched in the same streaming pass that captions and filters them.
"""

from __future__ import annotations

from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Literal

from capfilt.pipeline.config.schema import Config

Kind = Literal["fetch", "pretrain", "captioner", "filter", "bootstrap", "evaluate", "report"]


@dataclass(frozen=True)
class Node:
    """One step of the DAG."""

    name: str
    kind: Kind
    round: int
    needs: tuple[str, ...]
    sources: tuple[str, ...] = ()
    """Sources whose shards the node fetches or judges."""


class UnknownNode(ValueError):
    """A node name that the config's DAG does not have."""


def plan(config: Config) -> dict[str, Node]:
    """Nodes of a config by name, in an order that respects what they need."""
    nodes: dict[str, Node] = {}

    def add(kind: Kind, round_: int, needs: list[str], sources: list[str] | None = None) -> str:
        name = kind if kind == "fetch" else f"{kind}.{round_}"
        nodes[name] = Node(name, kind, round_, tuple(n for n in needs if n in nodes), tuple(sources or ()))
        return name

    trains = config.pretrain is not None
    given = config.captioner.checkpoint is not None and config.filter.checkpoint is not None
    web = config.of_kind("web")
    if trains:
        # With both checkpoints given the web images come with the bootstrap, in one pass.
        add("fetch", 0, [], config.of_kind("human", "test") + ([] if given else web))
    if trains and not given:
        add("pretrain", 0, ["fetch"])
    for r in range(1, config.run.rounds + 1):
        last = f"pretrain.{r - 1}"
        if r > 1 or config.captioner.checkpoint is None:
            add("captioner", r, [last])
        if r > 1 or config.filter.checkpoint is None:
            add("filter", r, [last])
        add("bootstrap", r, [f"captioner.{r}", f"filter.{r}", f"bootstrap.{r - 1}"], web)
        if trains:
            add("pretrain", r, ["fetch", f"bootstrap.{r}"] + ([last] if config.continue_training else []))
            if config.of_kind("test"):
                add(
                    "evaluate",
                    r,
                    [last, f"pretrain.{r}"] if r == 1 else [f"evaluate.{r - 1}", f"pretrain.{r}"],
                )
        add("report", r, [f"bootstrap.{r}", f"evaluate.{r}", f"report.{r - 1}"])
    order = TopologicalSorter({name: node.needs for name, node in nodes.items()}).static_order()
    return {name: nodes[name] for name in order}


def select(nodes: dict[str, Node], *, until: str | None) -> dict[str, Node]:
    """The nodes that `until` needs, itself included; all of them when it is None.

    Raises:
        UnknownNode: there is no such node.
    """
    if until is None:
        return nodes
    check_node(nodes, until, "--until")
    wanted: set[str] = set()
    stack = [until]
    while stack:
        name = stack.pop()
        if name not in wanted:
            wanted.add(name)
            stack.extend(nodes[name].needs)
    return {name: node for name, node in nodes.items() if name in wanted}


def downstream(nodes: dict[str, Node], name: str) -> list[str]:
    """`name` and every node that needs it, directly or not, in order."""
    found = {name}
    for node in nodes.values():
        if found & set(node.needs):
            found.add(node.name)
    return [n for n in nodes if n in found]


def check_node(nodes: dict[str, Node], name: str, option: str) -> None:
    if name not in nodes:
        raise UnknownNode(f"{option} {name}: no such node; this config has {', '.join(nodes)}")
