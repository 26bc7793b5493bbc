"""What a run of 100,000 shards costs its driver: planning, resuming, closing, verifying.

    python -m benchmarks.driver                              # 100,000 shards on the local disk
    python -m benchmarks.driver --s3 200 1200 --shards 0     # requests to an object store
    python -m benchmarks.driver --chain 2000 --shards 0      # the engine of the chain, on an embedded Ray

Each act is a process of its own, as a command of the user is; its seconds include the start of Python, its
memory is its peak. The acts are `planned` (from a manifest to the first shard that is handed out), `resumed`
(the same with all but 1,000 shards done), `handed` (the driver's own work for each shard that comes back),
`closed` (copies counted and marked, records added up), `verified` (records only) and `status`. Images are
neither downloaded nor judged, see `benchmarks.parts.driver_run`. The last line is the result as one JSON
object, which is stored as benchmarks/results/driver.json too.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.index import peak_memory
from benchmarks.parts.results import read_report, store_report

BEGAN = time.time()
"""Once the interpreter has started; the act itself imports the rest."""


def main() -> None:
    """Measure, and store the result."""
    options = parse_options()
    if options.act:
        print(json.dumps(ACTS[options.act](options)))
        return
    found: dict[str, Any] = {"machine": describe_machine(options)}
    if options.shards:
        found |= {"shards": options.shards, "disk": measure_disk(options)}
    if options.s3:
        found["s3"] = measure_requests(options)
    if options.chain:
        found["chain"] = run_act(options, "chain", options.chain)
    store_report("driver", read_report("driver") | found)
    print(json.dumps(found))


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--s3", type=int, nargs=2, metavar="SHARDS", help="Two sizes, to count requests.")
    parser.add_argument("--chain", type=int, metavar="SHARDS", help="Shards for the chain on Ray.")
    parser.add_argument("--repeats", type=int, default=3, help="Of the chain on Ray, and of Ray Data alone.")
    parser.add_argument("--folder", help="Where the run is made, and kept; default: a temporary folder.")
    parser.add_argument("--act", choices=list(ACTS), help=argparse.SUPPRESS)
    parser.add_argument("--profile", help="Write a profile of the acts to this folder.")
    parser.add_argument("--left", type=int, default=1000, help="Shards that are not done at the resumption.")
    parser.add_argument("--run-dir", help=argparse.SUPPRESS)
    parser.add_argument("--storage", type=json.loads, default={}, help=argparse.SUPPRESS)
    return parser.parse_args()


def describe_machine(options: argparse.Namespace) -> dict[str, Any]:
    """Hardware and versions."""
    packages = ("ray", "pyarrow", "duckdb", "fsspec", "s3fs", "msgspec")
    return {
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "filesystem": filesystem_of(options.folder or tempfile.gettempdir()),
        **{name: version(name) for name in packages},
    }


def filesystem_of(folder: str) -> str:
    """Type of the filesystem that holds a folder."""
    shown = subprocess.run(["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=False)
    return shown.stdout.strip() or "unknown"


def measure_disk(options: argparse.Namespace) -> dict[str, Any]:
    """All acts on the local disk, one after the other."""
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or temporary
        options.run_dir = f"{options.folder}/run"
        found: dict[str, Any] = {}
        for act in ("made", "planned", "filled", "resumed", "verified", "status"):
            found |= run_act(options, act, options.shards)
        return found


def measure_requests(options: argparse.Namespace) -> dict[str, Any]:
    """Requests of each act for two numbers of shards, and what each further shard costs."""
    from tests.s3_server import ENVIRONMENT, S3

    os.environ |= ENVIRONMENT
    server, few, many = S3(), *options.s3
    counts: dict[int, dict[str, Counter[str]]] = {}
    try:
        for shards in (few, many):
            with tempfile.TemporaryDirectory() as folder:
                options.folder, options.run_dir = folder, f"s3://bucket/run-{shards}"
                options.storage, options.left = {"endpoint_url": server.endpoint}, 1
                counts[shards] = {}
                for act in ("made", "planned", "filled", "resumed", "verified", "status"):
                    server.clear_faults()
                    run_act(options, act, shards)
                    counts[shards][act] = Counter(kind_of(*request) for request in server.requests())
                    print(json.dumps({"requests": counts[shards][act]}), flush=True)
    finally:
        server.stop()
    acts = [act for act in counts[few] if act not in ("made", "filled")]
    return {
        act: {
            kind: {
                str(few): counts[few][act][kind],
                str(many): counts[many][act][kind],
                "per_shard": round((counts[many][act][kind] - counts[few][act][kind]) / (many - few), 4),
            }
            for kind in sorted(counts[many][act])
        }
        for act in acts
    }


def kind_of(method: str, path: str, query: str) -> str:
    """Kind of a request as object stores bill it."""
    return "LIST" if method == "GET" and "list-type" in query else method


def run_act(options: argparse.Namespace, act: str, shards: int) -> dict[str, Any]:
    """Run an act in a process of its own; returns what it has found."""
    words = ["--act", act, "--shards", str(shards), "--left", str(options.left)]
    words += ["--repeats", str(options.repeats), "--storage", json.dumps(options.storage)]
    for name in ("folder", "run_dir", "profile"):
        if getattr(options, name):
            words += [f"--{name.replace('_', '-')}", getattr(options, name)]
    command = [sys.executable, "-m", "benchmarks.driver", *words]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    print(json.dumps(found), flush=True)
    return found


class Marks:
    """Seconds, seconds of the CPU and peak memory between moments of an act."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self._wall, self._cpu = BEGAN, 0.0

    def mark(self, name: str, shards: int | None = None) -> None:
        """End of a part of the act, which has handled so many shards."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        wall, cpu = time.time(), usage.ru_utime + usage.ru_stime
        part = {"seconds": round(wall - self._wall, 2), "cpu_seconds": round(cpu - self._cpu, 2)}
        if shards:
            part["milliseconds_per_shard"] = round((wall - self._wall) / shards * 1e3, 3)
        self.found[name] = part | {"peak_gb": round(peak_memory(), 3)}
        self._wall, self._cpu = wall, cpu


def make(options: argparse.Namespace) -> dict[str, Any]:
    """The inputs of the run."""
    from benchmarks.parts.driver_run import make_inputs

    make_inputs(options.folder, options.shards)
    return {}


def fill(options: argparse.Namespace) -> dict[str, Any]:
    """The shards that are done before the run is resumed."""
    from benchmarks.parts.driver_run import make_config, write_records
    from capfilt.pipeline.prepare import open_run

    run_dir = open_run(make_config(options.run_dir, options.folder, options.storage))
    write_records(run_dir.store, run_dir.fingerprints, range(options.shards - options.left))
    return {}


def plan(options: argparse.Namespace) -> dict[str, Any]:
    """From the manifest to the first shard that is handed out."""
    marks = Marks()

    def stop(items: Any, *_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        marks.mark("planned")
        raise KeyboardInterrupt

    try:
        run_node(options, stop)
    except KeyboardInterrupt:
        return marks.found
    raise AssertionError("the chain has got no shard")


def resume(options: argparse.Namespace) -> dict[str, Any]:
    """The rest of the run; on the way the driver's work for each shard, with shards that are done already."""
    from benchmarks.parts.driver_run import commit_stubs, make_config
    from capfilt.pipeline.prepare import open_run

    marks = Marks()
    run_dir = open_run(make_config(options.run_dir, options.folder, options.storage))

    def chain(items: Any, *_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        marks.mark("resumed")
        made = list(commit_stubs(run_dir.store, run_dir.fingerprints, items))
        marks.mark("committed")
        yield from made
        marks.mark("handed", len(made))

    run_node(options, chain)
    marks.mark("closed")
    del marks.found["committed"]  # work of the stub
    return marks.found


def verify(options: argparse.Namespace) -> dict[str, Any]:
    """Every record against the index and the record of the node."""
    from benchmarks.parts.driver_run import make_config
    from capfilt.pipeline.maintenance.verify import verify_run
    from capfilt.pipeline.prepare import open_run

    marks = Marks()
    run_dir = open_run(make_config(options.run_dir, options.folder, options.storage))
    found = verify_run(run_dir, records_only=True)
    assert not found.problems, found.problems[0]
    assert found.shards == 2 * options.shards, "a record of the corpus and one of the candidates"
    marks.mark("verified")
    return marks.found


def look(options: argparse.Namespace) -> dict[str, Any]:
    """What `capfilt status` reads of a run that is not done."""
    from benchmarks.parts.driver_run import make_config
    from capfilt.pipeline.inspection.status import read_status
    from capfilt.pipeline.prepare import open_run

    marks = Marks()
    run_dir = open_run(make_config(options.run_dir, options.folder, options.storage))
    run_dir.ledger.reopen("bootstrap.1")
    (node, *_) = read_status(run_dir).nodes
    assert node.done == options.shards, node
    marks.mark("status")
    return marks.found


def run_node(options: argparse.Namespace, chain: Callable[..., Iterator[dict[str, Any]]]) -> None:
    """Prepare the run, and run its bootstrap with this chain in place of the one on Ray."""
    from unittest.mock import patch

    from benchmarks.parts.driver_run import make_config
    from capfilt.pipeline.execute import _run_node
    from tests.local_run import local_run

    config = make_config(options.run_dir, options.folder, options.storage)
    with patch("capfilt.pipeline.nodes.shards.run_chain", chain):
        context = local_run(config)
        _run_node(context, context.run_dir.nodes["bootstrap.1"], "half")


def profiled(act: Callable[[argparse.Namespace], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The act, which writes its profile if one is asked for."""

    def run(options: argparse.Namespace) -> dict[str, Any]:
        if not options.profile:
            return act(options)
        import cProfile

        profile = cProfile.Profile()
        try:
            return profile.runcall(act, options)
        finally:
            Path(options.profile).mkdir(parents=True, exist_ok=True)
            profile.dump_stats(f"{options.profile}/{options.act}.prof")

    return run


def stream(options: argparse.Namespace) -> dict[str, Any]:
    """The chain on an embedded Ray."""
    from benchmarks.parts.driver_chain import measure_chain

    return measure_chain(options.shards, options.repeats)


ACTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "made": make,
    "planned": profiled(plan),
    "filled": fill,
    "resumed": profiled(resume),
    "verified": profiled(verify),
    "status": profiled(look),
    "chain": stream,
}
if __name__ == "__main__":
    main()
