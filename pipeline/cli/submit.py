"""Commands for runs on a cluster: `submit` and `stop`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from capfilt.pipeline.cli.exits import INTERRUPTED, UserErrors
from capfilt.pipeline.cli.options import ConfigArgument, RunArgument, SetOption
from capfilt.pipeline.console.commands import shell_command
from capfilt.pipeline.console.streams import BrokenPipeSafe, make_console, print_labeled
from capfilt.pipeline.console.summary import print_fields

if TYPE_CHECKING:
    from rich.console import Console

    from capfilt.cluster.submission.client import JobClient
    from capfilt.pipeline.submission.record import JobRecord

STOP_SECONDS = 300.0
"""Longest time that `capfilt stop` waits for a job to end."""

AddressOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Dashboard of the cluster's head. Default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265.",
        show_default=False,
    ),
]


def submit(
    config: ConfigArgument,
    address: AddressOption = None,
    set_: SetOption = None,
    follow: Annotated[
        bool, typer.Option("--follow/--detach", help="Print the output of the job until it ends.")
    ] = True,
    env: Annotated[
        Literal["image", "lock"],
        typer.Option(
            help="Dependencies of the job. image: those of the nodes; lock: each node installs the locked "
            "versions once (minutes, some 7 GB)."
        ),
    ] = "image",
) -> None:
    """Run a config as a job of a Ray cluster, or follow the job that works on it; Ctrl-C detaches.

    After the job or the head of the cluster was lost, the same command submits the run again: it resumes.
    """
    from capfilt.cluster.submission.address import default_address
    from capfilt.pipeline.config.load import load_config
    from capfilt.pipeline.submission.package import check_paths
    from capfilt.pipeline.submission.submit import submit_run

    words = ["capfilt", "submit", config, *(["--address", address] if address else [])]
    command = shell_command([*words, *(["--env", env] if env != "image" else [])], set_ or [])
    console = make_console()
    with UserErrors():
        loaded = load_config(config, set_ or [])
        check_paths(loaded)  # before Ray is imported, which takes seconds
        from capfilt.cluster.submission.client import JobClient, normalize_address

        client = JobClient(normalize_address(address or default_address()))
        submitted = submit_run(client, loaded, command, env)
        size = f" ({submitted.bytes / 1e6:.1f} MB uploaded)" if submitted.is_new else " (at work already)"
        print_fields(console, [("job", f"{submitted.job}{size}"), ("cluster", client.address)])
        back = [("follow", command), *_other_commands(loaded.run.dir, address)]
        if not follow:
            print_fields(console, back)
            return
        _follow(client, submitted.job, console, back)


def stop(run_dir: RunArgument, address: AddressOption = None, set_: SetOption = None) -> None:
    """Stop the job that works on a run: shards in progress are finished, and the run can be resumed."""
    from capfilt.cluster.submission.address import default_address
    from capfilt.pipeline.config.load import refuse_credentials, storage_options_in

    console = make_console()
    with UserErrors():
        refuse_credentials(run_dir, "RUN")
        record = _find_record(run_dir, storage_options_in(set_ or []))
        recorded = None if record is None else record.address
        from capfilt.cluster.submission.client import JobClient, normalize_address

        client = JobClient(normalize_address(address or recorded or default_address()))
        _stop(client, run_dir, record, console)


def _stop(client: JobClient, run_dir: str, record: JobRecord | None, console: Console) -> None:
    from capfilt.pipeline.submission.package import SubmissionError
    from capfilt.pipeline.submission.submit import run_name

    jobs = client.find(run_name(run_dir))
    if record is not None and record.job not in [job.id for job in jobs]:
        jobs += [job for job in [client.look(record.job)] if job is not None]
    job = next((each for each in jobs if each.is_active), None)
    if job is None:
        ended = f"its last job, {jobs[0].id}, has ended ({jobs[0].status})" if jobs else "it knows none"
        raise SubmissionError(
            f"no job of {client.address} works on {run_dir}: {ended}; a run that was started by capfilt run "
            f"is stopped by Ctrl-C or SIGTERM (capfilt status {run_dir} names its process)"
        )
    client.stop(job.id)
    console.print(f"job {job.id}: finishing the shards in progress", highlight=False)
    ended_job = client.wait(job.id, STOP_SECONDS)
    if ended_job is not None and ended_job.is_active:
        raise SubmissionError(
            f"job {job.id} has not ended in {STOP_SECONDS:.0f} s; repeat the command, or look at "
            f"{client.address}"
        )
    fields = [("stopped", job.id)]
    if record is not None and record.command:
        fields.append(("resume", record.command))
    print_fields(console, fields)


def _follow(client: JobClient, job: str, console: Console, back: list[tuple[str, str]]) -> None:
    """Print the output of a job, and end as the job has ended.

    Raises:
        SystemExit: with the code of the job if it failed; 130 after Ctrl-C.
    """
    output = BrokenPipeSafe(sys.stdout)

    def write(text: str) -> None:
        output.write(text)
        output.flush()

    try:
        ended = client.follow(job, write)
    except KeyboardInterrupt:
        console.print()
        print_fields(console, [("detached", f"job {job} goes on"), *back])
        raise SystemExit(INTERRUPTED) from None
    if ended.status != "SUCCEEDED":
        label, style = ("stopped", "") if ended.status == "STOPPED" else ("error", "bold red")
        print_labeled(console, label, f"job {job}: {ended.status}. {ended.message}".strip(), style)
        raise SystemExit(ended.exit_code if ended.exit_code and ended.exit_code > 0 else 1)


def _other_commands(run_dir: str, address: str | None) -> list[tuple[str, str]]:
    where = ["--address", address] if address else []
    return [
        ("status", shell_command(["capfilt", "status", run_dir], [])),
        ("stop", shell_command(["capfilt", "stop", run_dir, *where], [])),
    ]


def _find_record(run_dir: str, options: dict[str, object]) -> JobRecord | None:
    """The record of the job in the run directory; None if this machine does not see the directory."""
    from capfilt.pipeline.submission.record import find_job
    from capfilt.stages.storage.store import Store, StoreError

    try:
        return find_job(Store(run_dir, options))
    except StoreError:
        return None
