"""A dry run of slurm.sh: stubs of srun, scontrol, Ray and capfilt record what it does, and in which order."""

import os
import re
import signal
import subprocess
import time
import uuid
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "cluster/launch/slurm/slurm.sh"
STUBS = {
    # Runs the command here, whatever the node.
    "srun": """log srun "$@"; while [[ $1 == --* ]]; do shift; done; exec "$@" """,
    "scontrol": """log scontrol "$@"
case "$1 $2" in "show hostnames") printf 'node1\\nnode2\\nnode3\\n' ;;
"show job") echo "JobState=$STATE" ;; esac""",
    "ray": """log ray "$@"; [[ "$*" == *"$LATE"* ]] && sleep 2
echo joined >> joined
if [[ $2 == --head ]]; then while [[ ! -e kill_head ]]; do sleep 0.1; done; exit 1; fi
while [[ ! -e kill_workers ]]; do sleep 0.1; done""",
    "python": """if [[ $2 == *socket* ]]; then echo 12345; exit; fi
log poll; sort joined 2>/dev/null | wc -l""",
    "hostname": """echo 10.0.0.1 fe80::1""",
    "capfilt": """log capfilt "$RAY_ADDRESS" "$RAY_AUTH_MODE" "${#RAY_AUTH_TOKEN}" "$@"
trap 'log stopped; exit 143' TERM
case $RUN in ok) exit 0 ;; fails) exit 1 ;; hangs) trap '' TERM ;; esac
touch running; while true; do sleep 0.1; done""",
}


class DryRun:
    """One execution of the script in a folder of its own."""

    def __init__(self, folder, **variables):
        self.folder, self.log = folder, folder / "log"
        stubs = folder / ".venv/bin"
        stubs.mkdir(parents=True)
        for name, body in STUBS.items():
            (stubs / name).write_text(f'#!/usr/bin/env bash\nlog() {{ echo "$@" >> log; }}\n{body}\n')
            (stubs / name).chmod(0o755)
        self.job = uuid.uuid4().hex[:8]
        environment = {
            "PATH": os.environ["PATH"],
            "SLURM_SUBMIT_DIR": str(folder),
            "SLURM_JOB_NODELIST": "node[1-3]",
            "SLURM_CPUS_PER_TASK": "48",
            "SLURM_JOB_ID": self.job,
            "CAPFILT_POLL_SECONDS": "0.1",
            "STATE": "RUNNING",
            "LATE": "no node",
            "RUN": "ok",
            **variables,
        }
        self.process = subprocess.Popen(
            ["bash", SCRIPT, "my config.yaml", "--set", "run.seed=1"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, name):
        while not (self.folder / name).exists():
            assert self.process.poll() is None, self.process.stdout.read()
            time.sleep(0.02)

    def end(self):
        """(exit code, output) once the script has ended."""
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output

    def lines(self, start):
        return [line for line in self.log.read_text().splitlines() if line.startswith(start)]

    @property
    def temporary(self):
        return f"/tmp/ray-{os.getuid()}-{self.job}"


@pytest.fixture
def dry_run(tmp_path):
    started = []

    def start(**variables):
        started.append(DryRun(tmp_path, **variables))
        return started[-1]

    yield start
    for run in started:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait()


def test_the_run_starts_once_all_nodes_have_joined(dry_run):
    run = dry_run(LATE="--address=10.0.0.1")
    assert run.end() == (0, "capfilt: 3 nodes at 10.0.0.1:12345\n")
    lines = run.log.read_text().splitlines()
    (driver,) = (number for number, line in enumerate(lines) if line.startswith("capfilt"))
    assert lines[driver] == "capfilt 10.0.0.1:12345 token 64 run my config.yaml --set run.seed=1"
    assert all(number < driver for number, line in enumerate(lines) if line.startswith(("ray", "poll")))
    assert len(run.lines("ray start --head")) == 1 and len(run.lines("ray start --address")) == 2
    assert len(run.lines("poll")) > 1  # the last two nodes come late
    assert run.lines("scontrol requeue") == []


def test_each_node_has_one_task_with_all_cpus_and_folders_of_its_own(dry_run):
    run = dry_run()
    run.end()
    steps = [line for line in run.lines("srun") if " ray start" in line]
    assert sorted(re.search(r"--nodelist=(\S+)", step)[1] for step in steps) == ["node1", "node2", "node3"]
    for step in steps:
        assert "--nodes=1 --ntasks=1 --cpus-per-task=48" in step and "--num-cpus=48" in step
    (head,) = run.lines("ray start --head")
    assert f"--temp-dir={run.temporary}" in head and "--port=12345" in head
    assert "--ray-client-server-port=12345" in head
    everywhere = [line for line in run.lines("srun") if "--nodes=3" in line]
    assert [line.split(" ", 5)[5] for line in everywhere] == [
        f"mkdir -m 700 -p {run.temporary}",
        f"rm -rf {run.temporary}",
    ]
    assert not Path(run.temporary).exists()


@pytest.mark.parametrize(
    ("number", "reason"), [(signal.SIGUSR1, "time limit"), (signal.SIGTERM, "asked to end")]
)
def test_before_the_time_limit_the_run_is_stopped_and_queued_again(dry_run, number, reason):
    run = dry_run(RUN="waits")
    run.wait_for("running")
    os.kill(run.process.pid, number)
    code, output = run.end()
    assert code == 0 and reason in output and "resumes" in output
    lines = run.log.read_text().splitlines()
    assert lines.index("stopped") < lines.index(f"scontrol requeue {run.job}")
    assert not Path(run.temporary).exists()


def test_a_run_that_does_not_stop_is_killed_and_queued_again(dry_run):
    run = dry_run(RUN="hangs", CAPFILT_STOP_SECONDS="1")
    run.wait_for("running")
    os.kill(run.process.pid, signal.SIGUSR1)
    assert run.end()[0] == 0
    assert run.lines("scontrol requeue") == [f"scontrol requeue {run.job}"] and run.lines("stopped") == []


def test_a_canceled_job_is_not_queued_again(dry_run):
    run = dry_run(RUN="waits", STATE="CANCELLED")
    run.wait_for("running")
    os.kill(run.process.pid, signal.SIGTERM)
    code, output = run.end()
    assert code == 1 and "Slurm has ended the job" in output
    assert run.lines("scontrol requeue") == [] and run.lines("stopped") == ["stopped"]


def test_a_lost_head_ends_the_run_and_queues_the_job_again(dry_run):
    run = dry_run(RUN="waits")
    run.wait_for("running")
    (run.folder / "kill_head").touch()
    code, output = run.end()
    assert code == 0 and "Ray's head on node1 was lost" in output
    assert run.lines("stopped") == ["stopped"]
    assert run.lines("scontrol requeue") == [f"scontrol requeue {run.job}"]


def test_a_lost_worker_does_not_end_the_run(dry_run):
    run = dry_run(RUN="waits")
    run.wait_for("running")
    (run.folder / "kill_workers").touch()
    time.sleep(0.5)
    assert run.process.poll() is None and run.lines("stopped") == []


def test_a_node_that_does_not_join_queues_the_job_again(dry_run):
    run = dry_run(CAPFILT_NODE_SECONDS="1", LATE="--address=10.0.0.1")
    code, output = run.end()
    assert code == 0 and "only 1 of 3 nodes joined Ray in 1 s" in output
    assert run.lines("capfilt") == [] and len(run.lines("scontrol requeue")) == 1


def test_restarts_are_bounded(dry_run):
    run = dry_run(RUN="waits", SLURM_RESTART_COUNT="3", CAPFILT_MAX_RESTARTS="3")
    run.wait_for("running")
    os.kill(run.process.pid, signal.SIGUSR1)
    code, output = run.end()
    assert code == 1 and "not queued again after 3 restarts" in output
    assert run.lines("scontrol requeue") == []


def test_a_run_that_fails_ends_the_job_with_its_code(dry_run):
    run = dry_run(RUN="fails")
    assert run.end()[0] == 1
    assert run.lines("scontrol requeue") == []


def test_the_job_asks_slurm_for_what_the_script_relies_on():
    options = re.findall(r"^#SBATCH (--\S+)", SCRIPT.read_text(), re.MULTILINE)
    assert {"--exclusive", "--requeue", "--ntasks-per-node=1", "--signal=B:USR1@300"} <= set(options)
    assert "--open-mode=append" in options and any(each.startswith("--cpus-per-task=") for each in options)
