"""Run directories for tests: opened with the right to write, prepared, or run to the end."""

from dataclasses import replace

from capfilt.pipeline.execute import execute
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.prepare import hold_run, open_run, prepare

NO_RESULT = NodeResult("")
"""The result of a node without outputs and counts."""


class UncontestedLease:
    """The lease of a run directory in which no other process works."""

    def check(self):
        pass

    def confirm(self):
        pass


def writable(config):
    """The config's run directory with the right to write."""
    return replace(open_run(config), held=UncontestedLease())


def run_dag(config, console, **options):
    """Run a config as `capfilt run` does; returns the outcome.

    Args:
        options: those of `prepare`.
    """
    with hold_run(config, console.print) as run_dir:
        return execute(prepare(run_dir, **options), console)


def prepared_run(config, **options):
    """The result of `prepare`; the lease is released before this returns.

    Args:
        options: those of `prepare`.
    """
    with hold_run(config, print) as run_dir:
        return prepare(run_dir, **options)


def walk(store, folder=""):
    """Names of all files below a folder of a store, sorted."""
    base = store.path()
    return [str(path)[len(base) + 1 :] for path in sorted(store.fs.find(store.path(folder)))]
