"""Makes the small run of a config, and the plan of the run from it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import structs
from rich.console import Console

from capfilt.pipeline.config.load import dump_config
from capfilt.pipeline.config.schema import Config
from capfilt.pipeline.console.activity import Activity
from capfilt.pipeline.errors import NodeFailed
from capfilt.pipeline.estimate.amounts import Setting
from capfilt.pipeline.estimate.assemble import plan_money, plan_nodes, plan_time, stretch
from capfilt.pipeline.estimate.measured import Machines, SourceSize
from capfilt.pipeline.estimate.record import Plan, PlanError, PlannedSource, interval, write_plan
from capfilt.pipeline.preflight.check import find_devices, run_preflight
from capfilt.pipeline.prepare import hold_run, make_corpora, open_run, prepare
from capfilt.pipeline.probe.config import probe_config
from capfilt.pipeline.probe.measure import measure_nodes, measure_sources
from capfilt.pipeline.probe.sample import Sample
from capfilt.pipeline.probe.without_network import placeholders, sources_on_web, take_placeholder
from capfilt.pipeline.rundir.lease import LeaseError
from capfilt.pipeline.rundir.run_dir import RunDir
from capfilt.stages.manifest.index import build_index
from capfilt.stages.storage.layout import CONFIG, LEASE, index_folder

if TYPE_CHECKING:
    from capfilt.cluster.sizing import Sizing

log = logging.getLogger(__name__)

FEWEST_ROWS = 14
"""With fewer, the shards of a small run would not differ in size."""
ROWS = 256
"""Rows of each source in a small run on CPUs."""
BATCHES_ON_GPUS = 16
"""Batches of a model in a small run on GPUs. A GPU takes about as long for a part of a batch as for a whole
one, so the smallest shard, a sixteenth of the rows, has to fill one."""


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
    """What the user asks for."""

    rows: int | None = None
    """Rows of each source in the small run; None: `default_rows`."""
    steps: int = 40
    """Steps of each training in the small run."""
    network: bool = True
    cpus: float | None = None
    """CPUs and GPUs of the assumed cluster; None: those that the run would use now."""
    gpus: float | None = None
    gpu_price: float | None = None
    """Price of a GPU and of a CPU for an hour."""
    cpu_price: float | None = None

    def check(self) -> None:
        """Check the numbers.

        Raises:
            PlanError: one is out of range.
        """
        least = {
            "--rows": (self.rows, FEWEST_ROWS),
            "--steps": (self.steps, 2),
            "--cpus": (self.cpus, 1),
            "--gpus": (self.gpus, 0),
            "--price-per-gpu-hour": (self.gpu_price, 0),
            "--price-per-cpu-hour": (self.cpu_price, 0),
        }
        for option, (value, low) in least.items():
            if value is not None and not low <= value < float("inf"):
                raise PlanError(f"{option} {value:g}: give a number of at least {low}")


def make_plan(config: Config, request: PlanRequest, console: Console, tell: Activity) -> Plan:
    """Make the small run, and write the plan into the run directory.

    Args:
        console: shows the progress of the small run.
        tell: shows what is done before and after.

    Raises:
        PlanError: a number is out of range, the run is done, or it has no corpus.
        NodeFailed: the small run fails.
        Interrupted: a signal came.
        UserError: as in a preflight.
    """
    request.check()
    if config.only_tasks:
        raise PlanError(
            "sources: none, and a small run has no part of a downstream task; a plan needs a source of rows"
        )
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    tell("making the demonstration corpus")
    make_corpora(config)
    preflight = run_preflight(config, tell)
    run_dir = open_run(config)
    if all(node["state"] == "done" for node in preflight.nodes.values()):
        raise PlanError(
            f"{config.run.dir}: this run is done; capfilt plan {config.run.dir} shows what it took, and "
            "--set run.dir=... plans another one"
        )
    found = {name: source.found for name, source in preflight.sources.items() if source.found is not None}
    on_web = [] if request.network else sources_on_web(config, found)
    tell("loading Ray")
    from capfilt.cluster.session import session

    tell("starting Ray")
    with session(config.cluster):
        probed_on = find_machines(config)
        planned_on, sizing = assume_machines(config, request, probed_on)
        request = replace(request, rows=request.rows or default_rows(config, probed_on))
        start = time.monotonic()
        small = probe_config(config, request.steps)
        with placeholders(small, on_web) as small, small_run(small, request, on_web) as probe:
            tell.stop()
            run_nodes(probe, console, tell)
            tell("reading the records of the small run")
            sizes, nodes = measure_sources(probe, found), measure_nodes(probe)
        seconds = time.monotonic() - start
    setting = Setting(
        config=config,
        nodes=run_dir.nodes,
        probe=nodes,
        sources=sizes,
        probed_on=probed_on,
        planned_on=planned_on,
        sizing=sizing,
        unknown_stages=frozenset(["fetch"] if on_web else []),
    )
    plan = assemble(setting, request, seconds, network=not on_web)
    if find_devices(config)["cluster"] is None:
        plan = structs.replace(plan, load=round(load, 2))
    write_plan(run_dir.store, plan)
    return plan


def assemble(setting: Setting, request: PlanRequest, seconds: float, *, network: bool) -> Plan:
    """The plan from what was measured.

    Args:
        seconds: that the small run took.
        network: images were requested from the web.
    """
    planned = plan_nodes(setting)
    timed = plan_time(setting, planned)
    planned = [stretch(each, timed) for each in planned]
    money = plan_money(timed.seconds, setting.planned_on, request.gpu_price, request.cpu_price)
    return Plan(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        rows=request.rows or ROWS,
        steps=request.steps,
        network=network,
        probe_seconds=round(seconds, 1),
        cpus=setting.planned_on.cores,
        gpus=setting.planned_on.gpus,
        gpu_price=request.gpu_price,
        cpu_price=request.cpu_price,
        sources={name: _describe(size) for name, size in setting.sources.items()},
        nodes=planned,
        seconds=interval(timed.seconds),
        path=timed.path,
        money=None if money is None else interval(money, 4),
    )


def _describe(size: SourceSize) -> PlannedSource:
    return PlannedSource(
        rows=round(size.rows),
        shards=size.shards,
        is_estimated=size.is_estimated,
        probed_rows=size.probed_rows,
        stored=round(size.probed_images / size.probed_rows, 4) if size.probed_rows else 0.0,
    )


def default_rows(config: Config, machines: Machines) -> int:
    """Rows of each source in the small run, if the user names no number."""
    if not machines.gpus or config.only_downloads:
        return ROWS
    largest = max(config.captioner.generate.batch_size, config.filter.judge.batch_size)
    return max(ROWS, BATCHES_ON_GPUS * largest)


def find_machines(config: Config) -> Machines:
    """The machines of the Ray that this process is connected to."""
    from capfilt.cluster.sizing import divide_cluster

    found = divide_cluster(config.cluster)
    embedded = find_devices(config)["cluster"] is None
    cores = float(len(os.sched_getaffinity(0))) if embedded else found.cpus
    return Machines(cpus=found.cpus, gpus=found.gpus, cores=cores)


def assume_machines(config: Config, request: PlanRequest, here: Machines) -> tuple[Machines, Sizing]:
    """The machines that the plan is for, and how a run would divide them.

    Raises:
        PlanError: the plan is for GPUs, and there is none to measure with; or the reverse.
        ClusterError: the config requests more GPUs.
    """
    from capfilt.cluster.sizing import divide_resources

    gpus = here.gpus if request.gpus is None else request.gpus
    if (gpus > 0) != (here.gpus > 0):
        has = "has no GPU" if not here.gpus else f"has {here.gpus:g} GPUs"
        raise PlanError(
            f"--gpus {gpus:g}: the machine that measures {has}, and times on CPUs say nothing about those on "
            "GPUs; plan on a machine like those of the run"
        )
    cpus = here.cpus if request.cpus is None else request.cpus
    cores = here.cores if request.cpus is None else request.cpus
    return Machines(cpus=cpus, gpus=gpus, cores=cores), divide_resources(config.cluster, cpus=cpus, gpus=gpus)


@contextmanager
def small_run(config: Config, request: PlanRequest, on_web: Sequence[str]) -> Iterator[RunDir]:
    """The folder of a small run with an index of every source, while the body runs; it is removed afterwards,
    and so is one that a process has left which was killed.

    Args:
        config: of the small run.
        on_web: sources whose images are placeholders.
    """
    store = open_run(config).store
    try:
        with hold_run(config, log.info) as run_dir:
            for name in sorted(set(store.list()) - {LEASE}, key=lambda name: name == CONFIG):
                store.remove(name)
            run_dir.ledger.save_config(dump_config(config))
            for name, source in config.sources.items():
                change = take_placeholder if name in on_web else None
                sample = Sample(request.rows or ROWS, seed=config.run.seed, change=change)
                build_index(source.rows, store / index_folder(name), source=name, cut=sample)
            yield run_dir
    except LeaseError:
        raise  # the folder is that of another process
    except BaseException:
        store.remove("")
        raise
    store.remove("")


def run_nodes(run_dir: RunDir, console: Console, tell: Activity) -> None:
    """Run every node of the small run.

    Raises:
        NodeFailed: one fails.
    """
    prepared = prepare(run_dir, tell=tell)
    from capfilt.pipeline.execute import execute

    # One node after another: how fast it is alone. `estimate.nodes.schedule` knows which share the cores.
    outcome = execute(prepared, console, activity=tell, side_by_side=False)
    for line in outcome.failed.values():
        raise NodeFailed(f"the small run by which the time is measured fails: {line}")
