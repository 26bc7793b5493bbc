"""Options and arguments that several commands share, and the config of an existing run directory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from capfilt.pipeline.console.logs import Level, LogSettings, logging_configured

if TYPE_CHECKING:
    from capfilt.pipeline.config.schema import Config

ConfigArgument = Annotated[
    str,
    typer.Argument(metavar="CONFIG", help="A YAML file or the name of a shipped config.", show_default=False),
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run directory: local path or URL.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a config key, e.g. --set run.seed=1. Text keys take VALUE unchanged, other keys read "
        "it as YAML. Repeatable.",
    ),
]
FreshOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NODE", help="Redo this node and every node that depends on it. Repeat for several."
    ),
]


def global_options(
    context: typer.Context,
    log_level: Annotated[
        Level, typer.Option(envvar="CAPFILT_LOG_LEVEL", help="Lowest level of the log lines on stderr.")
    ] = "info",
    log_json: Annotated[
        bool, typer.Option("--log-json", envvar="CAPFILT_LOG_JSON", help="Write log lines as JSON objects.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit."),
    ] = False,
) -> None:
    """Options before the command; they configure logging for its duration."""
    context.with_resource(logging_configured(LogSettings(level=log_level, as_json=log_json)))


def _print_version(given: bool) -> None:
    if given:
        import capfilt

        typer.echo(f"capfilt {capfilt.__version__}")  # type: ignore[attr-defined]
        raise typer.Exit


def load_run_config(run_dir: str, overrides: Sequence[str] = ()) -> Config:
    """The config that a run directory was made with, `run.dir` set to where the directory is now.

    Args:
        run_dir: RUN as given on the command line.
        overrides: of `--set`; `run.storage_options` among them open the directory.

    Raises:
        ConfigError: the directory is no run directory, or its config is not valid.
        StoreError: the store cannot be reached.
    """
    from capfilt.pipeline.config.load import ConfigError, load_config, refuse_credentials, storage_options_in
    from capfilt.stages.storage.store import Store

    refuse_credentials(run_dir, "RUN")
    store = Store(run_dir, storage_options_in(overrides))
    if not store.exists("config.yaml"):
        place = run_dir.rstrip("/")
        runs = [f"{place}/{name}" for name in store.list() if store.exists(f"{name}/config.yaml")]
        advice = (
            f"give one of the runs in it: {', '.join(runs)}"
            if runs
            else "give the directory that run.dir named"
        )
        raise ConfigError(f"{run_dir}: not a run directory, it has no config.yaml; {advice}")
    config = load_config(store.address("config.yaml"), overrides)
    return config.model_copy(update={"run": config.run.model_copy(update={"dir": run_dir})})
