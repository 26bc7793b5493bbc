"""Runs and run directories as tests need them."""

from dataclasses import replace

from capfilt.pipeline.execute import execute
from capfilt.pipeline.node import NodeResult
from capfilt.pipeline.prepare import hold_run, open_run, prepare

DONE = NodeResult("")
"""The result of a node that has nothing to say."""


class Owner:
    """The lease of a run directory that nobody else wants."""

    def check(self):
        pass

    def confirm(self):
        pass


def writable(config):
    """The config's run directory with the right to write."""
    return replace(open_run(config), held=Owner())


def run_dag(config, console, **options):
    """What `capfilt run` does, with its outcome; options are those of `prepare`."""
    with hold_run(config, console.print) as run_dir:
        return execute(prepare(run_dir, **options), console)


def prepared_run(config, **options):
    """What `prepare` gives; the lease is released afterwards."""
    with hold_run(config, print) as run_dir:
        return prepare(run_dir, **options)


def walk(store, folder=""):
    """Names of all files below a folder of a store, sorted."""
    base = store.path()
    return [str(path)[len(base) + 1 :] for path in sorted(store.fs.find(store.path(folder)))]
