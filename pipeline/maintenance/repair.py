"""Taking back what is damaged, so that the run makes exactly that again."""

from __future__ import annotations

from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.maintenance.verify import Problem, Verification, verify_run
from capfilt.pipeline.plan import Node, downstream
from capfilt.pipeline.rundir.lease import Lease
from capfilt.pipeline.rundir.ledger import Ledger
from capfilt.pipeline.rundir.outputs import outputs_of
from capfilt.stages.storage.store import Store


def repair_run(
    config: Config, store: Store, ledger: Ledger, nodes: dict[str, Node], lease: Lease
) -> tuple[Verification, list[str]]:
    """Verify a run and take back what is damaged.

    Returns:
        What was found, and the names of the nodes that have work again.
    """
    found = verify_run(config, store, ledger, nodes)
    again = repair(config, store, ledger, nodes, found.problems, lease)
    if any(problem.place.startswith("nodes/") and problem.lost for problem in found.problems):
        hidden, more = repair_run(config, store, ledger, nodes, lease)  # what damaged records have hidden
        hidden.problems = found.problems + hidden.problems
        return hidden, [name for name in nodes if name in again or name in more]
    return found, again


def repair(
    config: Config,
    store: Store,
    ledger: Ledger,
    nodes: dict[str, Node],
    problems: list[Problem],
    lease: Lease,
) -> list[str]:
    """Take back the records of everything that is damaged.

    Shards are taken back one by one; of a corpus shard the candidates too, since its pictures may come back
    otherwise. Reports, and what was measured on damaged test pictures, are made anew. Trainings stay: they were right
    when they were made.

    What a damaged shard is told by, its own record, goes last. So whatever dies here, the next call finds the damage
    still, or nothing more to take back.

    Returns:
        Names of the nodes that have work again.
    """
    shards = [problem for problem in problems if problem.shard is not None]
    others = [problem for problem in problems if problem.shard is None]
    candidates, corpora, again = _taken_back(nodes, shards)
    again |= {problem.node for problem in others}
    for problem in others:
        if problem.lost:
            lease.confirm()
            store.remove_file(problem.place)
    for name in _stale(config, nodes, again, corpora):
        if ledger.node(name) is not None:
            lease.confirm()
            ledger.forget(name, outputs_of(nodes[name]))
            again.add(name)
    for name in dict.fromkeys(problem.node for problem in others if not problem.lost):
        if nodes[name].kind not in ("fetch", "bootstrap"):
            lease.confirm()
            ledger.forget(name, outputs_of(nodes[name]))
    for name in again:
        if nodes[name].kind in ("fetch", "bootstrap"):  # counted again
            ledger.reopen(name)
    for record in [*candidates, *corpora]:
        lease.confirm()
        store.remove_file(record)
    return [name for name in nodes if name in again]


def _taken_back(nodes: dict[str, Node], shards: list[Problem]) -> tuple[list[str], list[str], set[str]]:
    """Records of candidates and of corpus shards that go, and the nodes whose they are."""
    candidates: dict[str, None] = {}  # in their order, each once
    corpora: dict[str, None] = {}
    again = set()
    for problem in shards:
        kind, *_, source, name = problem.place.split("/")
        again.add(problem.node)
        if kind == "rounds":
            candidates[f"{problem.place}.json"] = None
            continue
        corpora[f"{problem.place}.json"] = None
        for node in nodes.values():
            if node.kind == "bootstrap" and source in node.sources:
                candidates[f"rounds/{node.round}/{source}/{name}.json"] = None
                again.add(node.name)
    return list(candidates), list(corpora), again


def _stale(config: Config, nodes: dict[str, Node], again: set[str], corpora: list[str]) -> list[str]:
    """Reports of what is made again, and measurements on test pictures that are asked for again."""
    later = {each for name in again for each in downstream(nodes, name)}
    test = any(config.sources[record.split("/")[1]].kind == "test" for record in corpora)
    kinds = ("report", "evaluate") if test else ("report",)
    return [name for name, node in nodes.items() if name in later and node.kind in kinds]
