"""The context of a running node without Ray: a cluster of two CPUs, and a status board that keeps nothing."""

from types import SimpleNamespace

from rich.console import Console

from capfilt.cluster.sizing import divide_resources
from capfilt.pipeline.console.progress import Progress
from capfilt.pipeline.console.signals import StopSignal
from capfilt.pipeline.nodes.context import RunContext
from tests.runs import prepared_run


class IgnoringStatus:
    """A `NodeStatus` that keeps nothing, and knows of no earlier process."""

    def claim(self, stage, shard):
        return 0

    def order(self):
        return "begin"

    def _ignore(self, *_, **__):
        pass

    release = report_failure = report_start = report_rate = post = _ignore
    add_notice = set_draining = set_holding = _ignore


class LocalContext(RunContext):
    def sizing(self, work=None, shards=None):
        return divide_resources(self.config.cluster, cpus=2, gpus=0)

    def serving_host(self):
        return "127.0.0.1"


def local_run(config):
    """Prepare a run of the config, and return the context that its nodes work with."""
    prepared = prepared_run(config)
    board = SimpleNamespace(
        for_node=lambda node: IgnoringStatus(),
        failures=lambda node: {},
        failed_shards=lambda node: set(),
        rates=lambda node: {},
    )
    stop = StopSignal(prepared.run_dir.store, 0, print)
    return LocalContext(prepared.run_dir, Progress(Console(quiet=True)), board, stop)
