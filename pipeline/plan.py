"""The method as a DAG: which nodes a config asks for, and what each of them needs.

    fetch → pretrain.0 → captioner.r ∥ filter.r → bootstrap.r → pretrain.r → evaluate.r → report.r,  r = 1…R

When the config gives both checkpoints and pretrains nothing, only `bootstrap.1 → report.1` remain, and images
are downloaded in the same streaming pass that captions and filters them, unless the threshold is to be found
first. When it gives no model at all, only
`fetch` remains: images are downloaded on one machine, and captioned later with a config that adds models.

Captions from elsewhere (`candidates`) are joined to their images by the node `join`, which every bootstrap
needs. Where these are in tars, `fetch` unpacks them before. Without a captioner a round has no `captioner.r`.

With `ensemble: n` a round has several captioners or filters: `captioner.r`, `captioner.r.2` …
`captioner.r.n`.

With `run.rounds: 0` only `fetch → pretrain.0 → evaluate.0 → report.0` remain. With `shared_finetune` one node
`shared.r` stands for `captioner.r` and `filter.r`.

Controls, if the config asks for some, are pretrained beside `pretrain.1` and evaluated with it: `human_only`
needs only `fetch`, the others the candidates of `bootstrap.1`.

`calibrate.r` measures the filter of round r on web images that no model was trained on, if there are some: as
soon as images and filter are there, so that `bootstrap.r` can use the threshold that it suggests.

A downstream task NAME has `data.NAME`, which reads its files, `finetune.NAME.r`, which starts from
`pretrain.r` (`finetune.NAME` from a given checkpoint), and `task.NAME.r`, which evaluates both models.

`export.R` writes what the last round has kept, if the config has that section.
"""

from __future__ import annotations

from dataclasses import replace
from graphlib import TopologicalSorter

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.export.node import EXPORT
from capfilt.pipeline.foreign.node import JOIN
from capfilt.pipeline.node import Node, NodeKind, member_names
from capfilt.pipeline.nodes.bootstrap import BOOTSTRAP
from capfilt.pipeline.nodes.calibrate import CALIBRATE
from capfilt.pipeline.nodes.evaluate import EVALUATE
from capfilt.pipeline.nodes.fetch import FETCH
from capfilt.pipeline.nodes.report import REPORT
from capfilt.pipeline.nodes.train import CAPTIONER, CONTROLS, FILTER, PRETRAIN, SHARED
from capfilt.pipeline.tasks.plan import plan_tasks
from capfilt.stages.errors import UserError


class UnknownNode(UserError):
    """A node name that the DAG of the config does not have."""


def plan(config: Config) -> dict[str, Node]:
    """The nodes of a config by name; every node comes after those that it needs."""
    nodes: dict[str, Node] = {}

    def add(kind: NodeKind, round_: int, needs: list[str], sources: list[str] | None = None) -> None:
        name = kind.name if kind in (FETCH, JOIN, *CONTROLS.values()) else f"{kind.name}.{round_}"
        planned = tuple(need for need in needs if need in nodes)  # the config may have no such node
        nodes[name] = Node(name, kind, round_, planned, tuple(sources or ()))

    def add_ensemble(kind: NodeKind, round_: int, needs: list[str], names: list[str]) -> None:
        add(kind, round_, needs)
        for member, name in enumerate(names[1:], start=2):
            nodes[name] = replace(nodes[names[0]], name=name, member=member)

    pretrains = config.pretrain is not None
    both_given = config.gives_both_models
    # When both checkpoints are given, the bootstrap downloads the web images itself.
    in_one_pass = both_given and not config.filter.judge.is_automatic
    web = config.of_kind("web")
    if config.only_tasks:
        add(REPORT, 0, plan_tasks(config, nodes, 0))
        return nodes
    if config.only_downloads:
        add(FETCH, 0, [], list(config.sources))
        if tasks := plan_tasks(config, nodes, 0):
            add(REPORT, 0, ["fetch", *tasks])
        return nodes
    fetched = config.of_kind("human", "test") if pretrains else []
    fetched += [] if in_one_pass else web
    unpacked = [source for source in config.described_sources if config.is_read_before_join(source)]
    fetched += [source for source in unpacked if source not in fetched]
    if fetched:
        add(FETCH, 0, [], fetched)
    if config.candidates:
        add(JOIN, 0, ["fetch"] if unpacked else [], config.described_sources)
    if pretrains and not both_given:
        add(PRETRAIN, 0, ["fetch"])
    if config.run.rounds == 0:
        add(EVALUATE, 0, ["pretrain.0"])
        add(REPORT, 0, ["evaluate.0", *plan_tasks(config, nodes, 0)])
    for r in range(1, config.run.rounds + 1):
        last, bootstrap, evaluate = f"pretrain.{r - 1}", f"bootstrap.{r}", f"evaluate.{r}"
        calibrate = f"calibrate.{r}"
        captioners = member_names("captioner", r, config.captioner.ensemble)
        filters = member_names("filter", r, config.filter.ensemble)
        if config.shared_finetune:
            add(SHARED, r, [last])
        elif config.captions_itself and (r > 1 or config.captioner.checkpoint is None):
            add_ensemble(CAPTIONER, r, [last], captioners)
        if not config.shared_finetune and (r > 1 or config.filter.checkpoint is None):
            add_ensemble(FILTER, r, [last], filters)
        uses_suggestion = config.filter.judge.is_automatic
        judge = [*filters, f"shared.{r}"]
        if uses_suggestion:
            add(CALIBRATE, r, ["fetch", *judge], web)
        models = [*captioners, *judge, f"bootstrap.{r - 1}", "join"]
        add(BOOTSTRAP, r, [*models, *([calibrate] if uses_suggestion else [])], web)
        if config.calibrates(r) and not uses_suggestion:
            add(CALIBRATE, r, [*judge, "fetch" if not in_one_pass else bootstrap], web)
        if pretrains:
            add(PRETRAIN, r, ["fetch", bootstrap] + ([last] if config.continue_training else []))
            controls = config.controls if r == 1 else ()
            for control in controls:
                add(CONTROLS[control], r, ["fetch"] if control == "human_only" else ["fetch", bootstrap])
            if config.of_kind("test"):
                add(EVALUATE, r, [last if r == 1 else f"evaluate.{r - 1}", *controls, f"pretrain.{r}"])
        tasks = [name for own in ((0, 1) if r == 1 else (r,)) for name in plan_tasks(config, nodes, own)]
        add(REPORT, r, [bootstrap, calibrate, evaluate, f"report.{r - 1}", *tasks])
    if config.export is not None:
        add(EXPORT, config.run.rounds, ["fetch", f"bootstrap.{config.run.rounds}"])
    order = TopologicalSorter({name: node.needs for name, node in nodes.items()}).static_order()
    return {name: nodes[name] for name in order}


def select(nodes: dict[str, Node], *, until: str | None) -> dict[str, Node]:
    """The node `until` and the nodes that it needs, directly or not; all nodes if `until` is None.

    Raises:
        UnknownNode: there is no such node.
    """
    if until is None:
        return nodes
    check_node(nodes, until, "--until")
    selected: set[str] = set()
    stack = [until]
    while stack:
        name = stack.pop()
        if name not in selected:
            selected.add(name)
            stack.extend(nodes[name].needs)
    return {name: node for name, node in nodes.items() if name in selected}


def downstream(nodes: dict[str, Node], name: str) -> list[str]:
    """The node `name` and every node that needs it, directly or not, in the order of `nodes`."""
    found = {name}
    for node in nodes.values():
        if found & set(node.needs):
            found.add(node.name)
    return [n for n in nodes if n in found]


def check_node(nodes: dict[str, Node], name: str, option: str) -> None:
    """Check that there is a node of this name.

    Args:
        option: the command line option that names it, for the message.

    Raises:
        UnknownNode: there is none.
    """
    if name not in nodes:
        raise UnknownNode(f"{option} {name}: no such node; this config has {', '.join(nodes)}")
