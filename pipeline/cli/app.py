"""The command line: `capfilt`, also `python -m pipeline`.

Exit codes: 0 all done; 1 a node failed; 2 bad config, input or usage; 130, 143 or 129 interrupted (SIGINT, SIGTERM,
SIGHUP).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from capfilt.pipeline.cli.exits import UserErrors, exit_now
from capfilt.pipeline.console.commands import ratio_query, resume_command, with_overrides
from capfilt.pipeline.console.streams import flush_output, make_console
from capfilt.pipeline.console.summary import last_metrics, print_fields, print_summary

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Bootstrap a clean image-text corpus from a noisy one, on Ray (CapFilt, arXiv 2201.12086).",
)

QUICKSTART = "configs/quickstart.yaml"

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file such as configs/quickstart.yaml.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override one config key, e.g. --set run.seed=1. Repeatable."
    ),
]


@app.command()
def quickstart(
    set_: SetOption = None,
    fresh: Annotated[str | None, typer.Option(help="Redo this node and all that depends on it.")] = None,
) -> None:
    """One whole round on a corpus made on the spot: about 5 minutes on 2 idle CPU cores, no network."""
    again = with_overrides(["capfilt", "quickstart"], set_ or [])
    _run(QUICKSTART, set_ or [], until=None, fresh=fresh, again=again)


@app.command()
def run(
    config: ConfigArgument,
    set_: SetOption = None,
    until: Annotated[str | None, typer.Option(help="Stop when this node is done, e.g. bootstrap.1.")] = None,
    fresh: Annotated[str | None, typer.Option(help="Redo this node and all that depends on it.")] = None,
) -> None:
    """Run a config, or go on with it: what is done is skipped, what is half done is resumed."""
    again = with_overrides(["capfilt", "run", config], set_ or [])
    _run(config, set_ or [], until=until, fresh=fresh, again=again)


@app.command()
def check(config: ConfigArgument, set_: SetOption = None) -> None:
    """Show the resolved config and the DAG with its states. Starts nothing."""
    from capfilt.pipeline.config.load import dump_config, load_config
    from capfilt.pipeline.prepare import check_sources, open_run, states

    console = make_console()
    with UserErrors():
        loaded = load_config(config, set_ or [])
        if loaded.shapes is None and loaded.clipart is None:  # those corpora are made by the run itself
            check_sources(loaded)
        run_dir = open_run(loaded)
        run_dir.ledger.check_place()
        state = states(run_dir)
        console.print(dump_config(loaded), highlight=False, markup=False, soft_wrap=True)
        table = Table("node", "state", "needs", box=None, pad_edge=False, header_style="dim")
        for name, node in run_dir.nodes.items():
            table.add_row(name, state[name], ", ".join(node.needs))
        console.print(table)


@app.command()
def report(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")], set_: SetOption = None
) -> None:
    """Write the report pages of a run again and print the last round's closing block."""
    from capfilt.pipeline.config.load import ConfigError
    from capfilt.pipeline.nodes.report import write_report
    from capfilt.pipeline.prepare import open_run

    with UserErrors():
        loaded = _config_of(run_dir, set_ or [])
        opened = open_run(loaded)
        judged = [name for name, node in opened.nodes.items() if node.kind.judges]
        rounds = [opened.nodes[name].round for name in judged if opened.ledger.node(name) is not None]
        if not rounds:
            raise ConfigError(f"{run_dir}: no round is bootstrapped yet; finish one with capfilt run")
        metrics = None
        for round_ in rounds:
            metrics = write_report(opened, round_)
        print_summary(
            make_console(), loaded, metrics, "look", f'duckdb -c "{ratio_query(run_dir, rounds[-1])}"'
        )


@app.command()
def verify(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")],
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Take back what is damaged, make exactly that again, and what is not done."
        ),
    ] = False,
    set_: SetOption = None,
) -> None:
    """Hash every file of a run again and account for every row; exit 1 if anything differs from the records."""
    from capfilt.pipeline.maintenance.repair import repair_run
    from capfilt.pipeline.maintenance.verify import verify_run
    from capfilt.pipeline.prepare import hold_run, open_run

    console, overrides = make_console(), set_ or []
    mending = with_overrides(["capfilt", "verify", run_dir, "--repair"], overrides)
    with UserErrors(resume=mending if repair else None):
        loaded = _config_of(run_dir, overrides)
        if repair:
            with hold_run(loaded, console.print) as held:
                found, undone = repair_run(held)
        else:
            found = verify_run(open_run(loaded))
    for problem in found.problems:
        console.print(f"[bold red]differs[/] {problem}", highlight=False, soft_wrap=True)
    console.print(
        f"{found.shards:,} shards, {found.rows:,} rows, {found.bytes / 1e6:,.1f} MB: "
        f"{len(found.problems)} differences; {found.unfinished} not finished",
        highlight=False,
    )
    if found.problems and not repair:
        console.print(f"repair        {mending}", highlight=False, soft_wrap=True)
        raise SystemExit(1)
    if not repair or not (found.problems or found.unfinished):
        return
    if undone:
        console.print(f"making again  {', '.join(undone)}", highlight=False)
    again = resume_command(run_dir, overrides)
    _run(f"{run_dir.rstrip('/')}/config.yaml", [], until=None, fresh=None, again=again, config=loaded)


@app.command()
def retry(
    run_dir: Annotated[str, typer.Argument(metavar="RUN", help="A run directory.")],
    class_: Annotated[
        str | None,
        typer.Option(
            "--class", metavar="A,B", help="Statuses, e.g. dns,timeout,http_5xx; default: all that may pass."
        ),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Ask again for the rows that failed so, in place; what is stored already is not touched."""
    from capfilt.pipeline.console.signals import Interrupted
    from capfilt.pipeline.prepare import hold_run
    from capfilt.stages.shards.retry import retry_classes

    console = make_console()
    words = ["capfilt", "retry", run_dir, *(["--class", class_] if class_ else [])]
    again = with_overrides(words, set_ or [])
    with UserErrors(resume=again):
        classes = retry_classes(class_)
        loaded = _config_of(run_dir, set_ or [])
        try:
            with hold_run(loaded, console.print) as held:
                # With it comes Ray, which takes seconds.
                from capfilt.pipeline.maintenance.retry import retry_rows

                found = retry_rows(held, classes, console)
        except Interrupted as interrupted:
            print_fields(console, [("resume", again)])
            exit_now(interrupted.exit_code)
    from capfilt.pipeline.maintenance.retry import closing_lines

    if found.failed is not None:
        console.print(f"[bold red]error[/] {found.failed}", highlight=False, soft_wrap=True)
    print_fields(
        console, closing_lines(found, run_dir.rstrip("/"), again, resume_command(run_dir, set_ or []))
    )
    if found.failed is not None:
        raise SystemExit(1)


@app.command()
def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="SRC", help="Checkpoint: capfilt or transformers folder, BLIP or LAVIS .pth."),
    ],
    target: Annotated[str, typer.Argument(metavar="DST", help="What to write; must not exist.")],
    to: Annotated[Literal["hf", "blip", "capfilt"], typer.Option(help="Layout of DST.")],
    tokenizer: Annotated[
        str | None, typer.Option(help="Tokenizer folder, for checkpoints that carry none (BLIP .pth).")
    ] = None,
    parts: Annotated[
        Literal["captioner", "filter", "vqa"] | None,
        typer.Option(help="Take only this out of a pretrained model; all there is when not given."),
    ] = None,
) -> None:
    """Convert a checkpoint between capfilt, transformers and BLIP layouts, strictly."""
    from capfilt.models.checkpoints.load import export_checkpoint
    from capfilt.pipeline.config.load import refuse_credentials
    from capfilt.stages.storage.artifacts import ArtifactError, local_artifact

    with UserErrors():
        refuse_credentials(source, "SRC")
        if Path(target).exists():
            raise ArtifactError(f"DST {target}: exists already; name another place, or remove it first")
        path = local_artifact(source, "SRC")
        export_checkpoint(path, target, to=to, parts=parts, tokenizer=tokenizer)
        make_console().print(f"wrote {target} ({to} layout)", highlight=False)


@app.command()
def shapes(folder: Annotated[str, typer.Argument(help="Where to make it.")]) -> None:
    """Make the procedural corpus of coloured shapes with planted noise."""
    from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
    from capfilt.pipeline.prepare import make_corpus

    with UserErrors():
        make_corpus(make_shapes, ShapesConfig(), folder)
        make_console().print(f"made {folder}: human/, web/, test/", highlight=False)


@app.command()
def clipart(folder: Annotated[str, typer.Argument(help="Where to make it.")]) -> None:
    """Build the clip-art corpus (Tux Paint stamps, Open Clip Art) from Debian packages."""
    from capfilt.pipeline.corpora.clipart import ClipartConfig, make_clipart
    from capfilt.pipeline.prepare import make_corpus

    with UserErrors():
        make_corpus(make_clipart, ClipartConfig(), folder)
        make_console().print(f"made {folder}: human/, web/, test/", highlight=False)


def main() -> None:
    """Entry point of the `capfilt` command."""
    try:
        app(prog_name="capfilt")
    finally:
        flush_output()


def _config_of(run_dir: str, overrides: Sequence[str] = ()) -> Any:
    """The config that a run directory was made with."""
    from capfilt.pipeline.config.load import ConfigError, load_config, refuse_credentials, storage_options
    from capfilt.stages.storage.store import Store

    refuse_credentials(run_dir, "RUN")
    store = Store(run_dir, storage_options(overrides))
    if not store.exists("config.yaml"):
        raise ConfigError(f"{run_dir}: no run directory (it has no config.yaml); give what run.dir was")
    loaded = load_config(store.address("config.yaml"), overrides)
    return loaded.model_copy(update={"run": loaded.run.model_copy(update={"dir": run_dir})})


def _run(
    path: str,
    overrides: list[str],
    *,
    until: str | None,
    fresh: str | None,
    again: str,
    config: Any = None,
) -> None:
    from capfilt.pipeline.config.load import load_config
    from capfilt.pipeline.console.signals import Interrupted
    from capfilt.pipeline.prepare import hold_run, prepare

    console = make_console()
    errors = UserErrors(resume=again if fresh is None else f"{again} --fresh {shlex.quote(fresh)}")
    with errors:
        if config is None:
            config = load_config(path, overrides)
        try:
            with hold_run(config, console.print) as run_dir:
                prepared = prepare(run_dir, until=until, fresh=fresh)
                errors.resume = again  # what was to be forgotten is
                # With it comes Ray, which takes seconds: mistakes are told before.
                from capfilt.pipeline.execute import execute

                outcome = execute(prepared, console)
        except Interrupted as interrupted:
            print_summary(console, config, last_metrics(config), "resume", again)
            exit_now(interrupted.exit_code)
    metrics = last_metrics(config)
    for line in outcome.failed.values():
        console.print(f"[bold red]error[/] {line}", highlight=False, soft_wrap=True)
    if outcome.failed:
        print_summary(console, config, metrics, "resume", again)
        raise SystemExit(1)
    print_summary(console, config, metrics, "again" if until is None else "continue", again)
