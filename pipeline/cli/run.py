"""Commands that run a config: `quickstart` and `run`, and before it `check` and `plan`."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from capfilt.cluster.submission.address import SUBMITTED_BY
from capfilt.pipeline.cli.exits import UserErrors, exit_now
from capfilt.pipeline.cli.options import ConfigArgument, FreshOption, SetOption, load_run_config
from capfilt.pipeline.console.commands import shell_command
from capfilt.pipeline.console.logs import log_run
from capfilt.pipeline.console.streams import make_console, print_labeled
from capfilt.pipeline.console.summary import load_last_metrics, print_summary

if TYPE_CHECKING:
    from capfilt.pipeline.config.schema import Config
    from capfilt.pipeline.probe.run import PlanRequest
    from capfilt.pipeline.rundir.run_dir import RunDir

QUICKSTART = "configs/quickstart.yaml"
TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG|RUN",
        help="Before a run its config; afterwards its directory, to compare.",
        show_default=False,
    ),
]


def quickstart(set_: SetOption = None, fresh: FreshOption = None) -> None:
    """Run one whole round on a procedural corpus: about 5 minutes on 2 CPU cores, no network."""
    resume = shell_command(["capfilt", "quickstart"], set_ or [])
    run_config(_load(QUICKSTART, set_, resume, fresh or []), resume, fresh=fresh or [])


def run(
    config: ConfigArgument,
    set_: SetOption = None,
    until: Annotated[
        str | None, typer.Option(metavar="NODE", help="Stop after this node, e.g. bootstrap.1.")
    ] = None,
    fresh: FreshOption = None,
) -> None:
    """Run a config, or resume it: finished nodes are skipped, unfinished ones continue."""
    # In a submitted job: the command of the user, who does not see this one.
    resume = os.environ.get(SUBMITTED_BY) or shell_command(["capfilt", "run", config], set_ or [])
    run_config(_load(config, set_, resume, fresh or []), resume, until=until, fresh=fresh or [])


def check(
    config: ConfigArgument,
    set_: SetOption = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print every key of the config, not only the changed ones.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Preflight: rows and samples of each source, hosts, store, devices, models, nodes; starts nothing."""
    from capfilt.pipeline.config.load import load_config
    from capfilt.pipeline.config.paths import check_job_paths
    from capfilt.pipeline.console.activity import Activity, hidden_activity
    from capfilt.pipeline.preflight.check import run_preflight
    from capfilt.pipeline.preflight.page import print_preflight

    console = make_console()
    activity = hidden_activity() if as_json else Activity(console)
    with UserErrors(), activity:
        checked = load_config(config, set_ or [])
        check_job_paths(checked)
        found = run_preflight(checked, activity)
        activity.stop()
        if as_json:
            typer.echo(json.dumps(asdict(found), ensure_ascii=False, indent=1))
        else:
            print_preflight(console, found, full=full)


def run_config(
    config: Config,
    resume: str,
    *,
    until: str | None = None,
    fresh: Sequence[str] = (),
    donors: Sequence[str] = (),
) -> None:
    """Run a config's nodes and print the closing block.

    Args:
        resume: the command that resumes this run, without `--fresh`.
        until: the last node to run; None runs all.
        fresh: the nodes to redo, with every node that depends on one of them.
        donors: other run directories, whose done nodes with equal inputs are taken over.

    Raises:
        SystemExit: with code 1 if a node failed, 2 after an error of the user.
    """
    from capfilt.pipeline.console.activity import Activity
    from capfilt.pipeline.console.signals import Interrupted
    from capfilt.pipeline.prepare import hold_run, prepare

    console = make_console()
    log_run(config.run.dir)
    with UserErrors(resume=_with_fresh(resume, fresh)) as errors, Activity(console) as activity:
        try:
            activity("taking the lease of the run directory")
            with hold_run(config, console.print) as run_dir:
                if donors:
                    _take_over(run_dir, donors, activity)
                prepared = prepare(run_dir, until=until, fresh=fresh, tell=activity)
                errors.resume = resume  # the outputs of `fresh` are removed now
                # Imports Ray, which takes seconds; mistakes have been reported by now.
                activity("loading Ray")
                from capfilt.pipeline.execute import execute

                outcome = execute(prepared, console, resume, activity)
        except Interrupted as interrupted:
            activity.stop()
            print_summary(console, config, load_last_metrics(config), "resume", resume)
            exit_now(interrupted.exit_code)
    for line in outcome.failed.values():
        print_labeled(console, "error", line, "bold red")
    next_step = "resume" if outcome.failed else "again" if until is None else "continue"
    print_summary(console, config, load_last_metrics(config), next_step, resume)
    if outcome.failed:
        raise SystemExit(1)


def _take_over(run_dir: RunDir, donors: Sequence[str], tell: Callable[[str], None]) -> None:
    from capfilt.pipeline.rundir.takeover import take_over
    from capfilt.stages.storage.run_store import RunStore

    tell("taking over what equal runs have made")
    take_over(run_dir, [RunStore(donor, run_dir.config.run.storage_options) for donor in donors])


def _load(path: str, overrides: list[str] | None, resume: str, fresh: Sequence[str]) -> Config:
    from capfilt.pipeline.config.load import load_config

    with UserErrors(resume=_with_fresh(resume, fresh)):
        return load_config(path, overrides or [])


def _with_fresh(command: str, fresh: Sequence[str]) -> str:
    return " ".join([command, *(f"--fresh {shlex.quote(node)}" for node in fresh)])


def plan(
    target: TargetArgument,
    rows: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Rows of each source in the small run. Default: 256; on GPUs 16 batches of the models.",
            show_default=False,
        ),
    ] = None,
    steps: Annotated[
        int, typer.Option("--steps", metavar="N", help="Steps of each training in the small run.")
    ] = 40,
    network: Annotated[
        bool,
        typer.Option(
            "--network/--no-network",
            help="Request images from the web, or let images of noise stand for them.",
        ),
    ] = True,
    gpus: Annotated[
        float | None,
        typer.Option(metavar="N", help="GPUs of the assumed cluster. Default: those here."),
    ] = None,
    cpus: Annotated[
        float | None,
        typer.Option(metavar="N", help="CPUs of the assumed cluster. Default: those here."),
    ] = None,
    gpu_price: Annotated[
        float | None,
        typer.Option("--price-per-gpu-hour", metavar="PRICE", help="Price of a GPU for an hour."),
    ] = None,
    cpu_price: Annotated[
        float | None,
        typer.Option("--price-per-cpu-hour", metavar="PRICE", help="Price of a CPU for an hour."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
    set_: SetOption = None,
) -> None:
    """Estimate time, bytes and price of a run from a small one; after it, compare.

    The small run is made beside the run directory and removed again.
    """
    from capfilt.pipeline.probe.run import PlanRequest
    from capfilt.stages.storage.store import Store

    request = PlanRequest(
        rows=rows,
        steps=steps,
        network=network,
        cpus=cpus,
        gpus=gpus,
        gpu_price=gpu_price,
        cpu_price=cpu_price,
    )
    with UserErrors():
        from capfilt.pipeline.config.load import refuse_credentials, storage_options_in

        refuse_credentials(target, "CONFIG")
        options = storage_options_in(set_ or [])
        if not target.endswith((".yaml", ".yml")) and Store(target, options).exists("config.yaml"):
            _compare(target, set_ or [], as_json=as_json)
        else:
            _plan(target, set_ or [], request, as_json=as_json)


def _plan(target: str, overrides: list[str], request: PlanRequest, *, as_json: bool) -> None:
    from rich.console import Console

    from capfilt.pipeline.config.load import load_config
    from capfilt.pipeline.config.paths import check_job_paths
    from capfilt.pipeline.console.activity import Activity
    from capfilt.pipeline.console.commands import shell_command
    from capfilt.pipeline.console.logs import log_run
    from capfilt.pipeline.console.signals import Interrupted
    from capfilt.pipeline.probe.page import print_plan
    from capfilt.pipeline.probe.run import make_plan

    console = make_console()
    shown = Console(file=sys.stderr, quiet=True) if as_json else console
    with Activity(shown) as activity:
        config = load_config(target, overrides)
        check_job_paths(config)
        log_run(config.run.dir)
        try:
            made = make_plan(config, request, shown, activity)
        except Interrupted as interrupted:
            activity.stop()
            exit_now(interrupted.exit_code)
        activity.stop()
        if as_json:
            typer.echo(json.dumps(msgspec.to_builtins(made), ensure_ascii=False, indent=1))
        else:
            print_plan(console, made, config.run.dir, shell_command(["capfilt", "run", target], overrides))


def _compare(target: str, overrides: list[str], *, as_json: bool) -> None:
    from dataclasses import asdict

    from capfilt.pipeline.estimate.compare import compare
    from capfilt.pipeline.estimate.record import read_plan
    from capfilt.pipeline.prepare import open_run
    from capfilt.pipeline.probe.page import print_comparison

    console = make_console()
    run_dir = open_run(load_run_config(target, overrides))
    records = {name: run_dir.ledger.node(name) for name in run_dir.nodes}
    plan_ = read_plan(run_dir.store)
    found = compare(plan_, run_dir.nodes, records)
    if as_json:
        data = msgspec.to_builtins(asdict(found))
        typer.echo(json.dumps(data, ensure_ascii=False, indent=1))
    else:
        print_comparison(console, found, plan_, target)
