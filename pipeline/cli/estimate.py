"""The command `plan`: what a run will take, and what it took."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from capfilt.pipeline.cli.exits import UserErrors, exit_now
from capfilt.pipeline.cli.options import SetOption, load_run_config
from capfilt.pipeline.console.streams import make_console

if TYPE_CHECKING:
    from capfilt.pipeline.probe.run import PlanRequest

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="CONFIG|RUN",
        help="Before a run its config; afterwards its directory, to compare.",
        show_default=False,
    ),
]


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
