"""What `capfilt submit` and `capfilt stop` do with the jobs of a cluster, which a stub holds."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from capfilt.cluster.config import ClusterError
from capfilt.cluster.submission import client as client_module
from capfilt.cluster.submission.client import Job
from capfilt.cluster.submission.environment import runtime_env
from capfilt.pipeline.cli.app import app
from capfilt.pipeline.config.load import load_config
from capfilt.pipeline.submission import package as package_module
from capfilt.pipeline.submission.package import SubmissionError, check_paths, write_package
from capfilt.pipeline.submission.record import JobRecord, find_job, record_job
from capfilt.pipeline.submission.submit import job_id, submit_run
from capfilt.stages.storage.store import Store
from tests.tiny import tiny_data, write_config

ROOT = Path(__file__).parents[3]


class Cluster:
    """Stands in for `JobClient`; keeps its jobs and what was submitted."""

    jobs: list[Job]

    def __init__(self, address="http://head:8265"):
        self.address = address
        self.jobs, self.submitted, self.files = [], [], {}
        self.output, self.end = "", "SUCCEEDED"

    def find(self, run):
        return [job for job in reversed(self.jobs) if job.run == run]

    def look(self, job):
        return next((each for each in self.jobs if each.id == job), None)

    def submit(self, submission):
        if self.look(submission.id) is not None:
            raise ClusterError("already exists")
        folder = Path(submission.runtime_env["working_dir"])
        self.files = {str(each.relative_to(folder)): each.stat().st_size for each in folder.rglob("*.*")}
        self.config = yaml.safe_load((folder / "config.yaml").read_text())
        self.submitted.append(submission)
        self.jobs.append(Job(submission.id, "RUNNING", submission.run, submission.config, "", None))

    def finish(self, status, code=None, message=""):
        last = self.jobs.pop()
        self.jobs.append(Job(last.id, status, last.run, last.config, message, code))

    def follow(self, job, write):
        if self.end == "Ctrl-C":
            raise KeyboardInterrupt
        write(self.output)
        self.finish(*self.end.split())
        return self.jobs[-1]

    def stop(self, job):
        self.finish("STOPPED")

    def wait(self, job, seconds):
        return self.look(job)


@pytest.fixture
def path(tmp_path):
    return write_config(tmp_path / "config.yaml", tiny_data(tmp_path))


@pytest.fixture
def cluster(monkeypatch):
    stub = Cluster()

    def connect(address):
        stub.address = address
        return stub

    monkeypatch.setattr(client_module, "JobClient", connect)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return stub


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_run_is_submitted_and_followed(cluster, path, tmp_path):
    cluster.output = "the output\n"
    result = call("submit", path, "--set", "run.seed=3", "--address", "head:8265")
    assert result.exit_code == 0, result.output
    assert "the output\n" in result.stdout and "MB uploaded" in result.stdout
    (sent,) = cluster.submitted
    assert cluster.address == "http://head:8265" and sent.id == job_id(f"{tmp_path}/run", 1)
    assert cluster.config["run"]["seed"] == 3  # overrides are part of the config that is sent
    assert sent.entrypoint == "python -m capfilt.pipeline run config.yaml"
    variables = sent.runtime_env["env_vars"]
    assert variables["CAPFILT_SUBMITTED_BY"] == (
        f"capfilt submit {path} --address head:8265 --set run.seed=3"
    )
    assert variables["CAPFILT_SUBMITTED_TO"] == "http://head:8265"
    assert variables["RAY_JOB_STOP_WAIT_TIME_S"] == "60"  # the grace time of the run and a margin
    assert "pip" not in sent.runtime_env


def test_the_upload_is_the_program_and_the_config(cluster, path):
    assert call("submit", path, "--detach").exit_code == 0
    assert sum(cluster.files.values()) < 5_000_000
    tops = {name.partition("/")[0] for name in cluster.files}
    assert tops == {"capfilt", "pipeline", "stages", "models", "cluster", "configs", "config.yaml"}
    assert {"pipeline/report/templates/report.html.j2", "configs/quickstart.yaml"} <= set(cluster.files)
    assert not [name for name in cluster.files if "__pycache__" in name or "/." in name]


def test_what_is_uploaded_runs_in_its_folder(path, tmp_path):
    folder = tmp_path / "upload"
    folder.mkdir()
    write_package(load_config(path), folder)
    done = subprocess.run(
        [sys.executable, "-m", "capfilt.pipeline", "check", "config.yaml", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stderr


def test_an_installed_program_is_uploaded_as_one_package(path, tmp_path, monkeypatch):
    site = tmp_path / "site"
    for name in ("pipeline", "stages", "models", "cluster", "configs"):
        package_module._copy(ROOT / name, site / "capfilt" / name)
    (site / "capfilt/__init__.py").write_text((ROOT / "capfilt/__init__.py").read_text())
    (site / "another_package.py").touch()
    monkeypatch.setattr(package_module.capfilt, "__file__", str(site / "capfilt/__init__.py"))
    (tmp_path / "upload").mkdir()
    write_package(load_config(path), tmp_path / "upload")
    assert {each.name for each in (tmp_path / "upload").iterdir()} == {"capfilt", "config.yaml"}
    assert (tmp_path / "upload/capfilt/cluster/launch/docker/requirements.lock").exists()


def test_what_does_not_belong_to_the_program_is_not_uploaded(path, tmp_path, monkeypatch):
    monkeypatch.setattr(package_module, "MAX_BYTES", 1000)
    (tmp_path / "upload").mkdir()
    with pytest.raises(SubmissionError, match=r"at most 0 MB are uploaded; .*largest: "):
        write_package(load_config(path), tmp_path / "upload")


def test_local_files_are_named_before_a_cluster_is_asked(cluster, tmp_path):
    data = tiny_data(tmp_path)
    data["run"]["dir"] = "runs/mine"
    data["sources"]["web"]["rows"]["manifest"] = "web.parquet"
    result = call("submit", write_config(tmp_path / "config.yaml", data))
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "run.dir=runs/mine, sources.web.rows.manifest=web.parquet" in line and "object store" in line
    assert cluster.jobs == []


def test_shipped_files_are_no_local_files(tmp_path):
    config = load_config("configs/quickstart.yaml", [f"run.dir={tmp_path}", f"shapes_dir={tmp_path}"])
    with pytest.raises(SubmissionError) as error:
        check_paths(config)
    assert "configs/" not in str(error.value)


def test_the_same_command_follows_the_job_at_work(cluster, path):
    assert call("submit", path, "--detach").exit_code == 0
    again = call("submit", path)
    assert again.exit_code == 0 and "at work already" in again.stdout
    assert len(cluster.submitted) == 1


@pytest.mark.parametrize("end", ["SUCCEEDED", "FAILED", "STOPPED"])
def test_after_the_end_the_same_command_submits_again(cluster, path, tmp_path, end):
    call("submit", path, "--detach")
    cluster.finish(end)
    call("submit", path, "--detach")
    assert [each.id for each in cluster.submitted] == [job_id(f"{tmp_path}/run", n) for n in (1, 2)]


def test_a_new_head_gets_the_run_again(cluster, path):
    call("submit", path, "--detach")
    cluster.jobs.clear()
    assert call("submit", path, "--detach").exit_code == 0
    assert len(cluster.submitted) == 2 and cluster.submitted[0].run == cluster.submitted[1].run


def test_another_config_on_the_same_run_is_refused(cluster, path):
    call("submit", path, "--detach")
    result = call("submit", path, "--set", "run.seed=5")
    assert result.exit_code == 2 and "with another config" in result.stderr
    assert "capfilt stop" in result.stderr and len(cluster.submitted) == 1


def test_of_two_commands_at_the_same_time_one_submits(cluster, path, monkeypatch):
    config = load_config(path)
    submit_run(cluster, config, "first", "image")
    answers = itertools.chain([[]], itertools.repeat(cluster.jobs))
    monkeypatch.setattr(cluster, "find", lambda run: next(answers))  # the first look came too early
    joined = submit_run(cluster, config, "second", "image")
    assert not joined.is_new and joined.job == cluster.jobs[0].id


def test_a_cluster_that_takes_no_job_is_one_line(cluster, path, monkeypatch):
    def refuse(submission):
        raise ClusterError("http://head:8265: full")

    monkeypatch.setattr(cluster, "submit", refuse)
    result = call("submit", path)
    assert result.exit_code == 2 and result.stderr == "error: http://head:8265: full\n"


def test_ctrl_c_detaches_and_says_how_to_come_back(cluster, path, tmp_path):
    cluster.end = "Ctrl-C"
    result = call("submit", path, "--address", "head:8265")
    assert result.exit_code == 130 and cluster.jobs[0].is_active
    assert f"capfilt submit {path} --address head:8265" in result.stdout
    assert f"capfilt status {tmp_path}/run" in result.stdout
    assert f"capfilt stop {tmp_path}/run --address head:8265" in result.stdout


@pytest.mark.parametrize(("end", "code"), [("FAILED 2 refused", 2), ("FAILED", 1), ("STOPPED 143", 143)])
def test_the_command_ends_as_its_job(cluster, path, end, code):
    cluster.end = end.replace("FAILED 2 refused", "FAILED 2")
    monkey = cluster.finish
    cluster.finish = lambda status, number=None: monkey(status, number and int(number), "why")
    result = call("submit", path)
    assert result.exit_code == code and f"{end.split()[0]}. why" in result.output


def test_a_job_is_stopped_by_its_run_directory(cluster, path, tmp_path):
    call("submit", path, "--detach")
    Store(str(tmp_path / "run")).put_json(
        "lease/job.json",
        {
            "job": cluster.jobs[0].id,
            "address": "http://there:8265",
            "command": "capfilt submit c",
            "since": "x",
        },
    )
    result = call("stop", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert cluster.jobs[0].status == "STOPPED" and cluster.address == "http://there:8265"
    assert "capfilt submit c" in result.stdout


def test_a_directory_that_this_machine_does_not_see_is_stopped_by_its_name(cluster, path):
    call("submit", path, "--set", "run.dir=/mnt/far/run", "--detach")
    assert call("stop", "/mnt/far/run/", "--address", "head:1").exit_code == 0
    assert cluster.jobs[0].status == "STOPPED" and cluster.address == "http://head:1"


def test_without_a_job_nothing_is_stopped(cluster, path, tmp_path):
    result = call("stop", tmp_path / "run")
    assert result.exit_code == 2 and "it knows none" in result.stderr and "Ctrl-C" in result.stderr
    call("submit", path)
    result = call("stop", tmp_path / "run")
    assert result.exit_code == 2 and "has ended (SUCCEEDED)" in result.stderr


def test_a_job_that_does_not_end_is_said(cluster, path, tmp_path, monkeypatch):
    call("submit", path, "--detach")
    monkeypatch.setattr(cluster, "stop", lambda job: None)
    result = call("stop", tmp_path / "run")
    assert result.exit_code == 2 and "has not ended in 300 s" in result.stderr


def test_the_environment_of_the_lock_pins_every_package_but_ray():
    packages = runtime_env("lock", {"A": "1"})["pip"]["packages"]
    assert len(packages) > 100 and all("==" in each for each in packages)
    assert not [each for each in packages if each.startswith("ray==")]
    assert any(each.startswith("torch==") for each in packages)
    assert any("; " in each and "sys_platform" in each for each in packages)
    assert runtime_env("image", {"A": "1"}) == {"env_vars": {"A": "1"}}


def test_only_a_ray_job_leaves_a_record(tmp_path, monkeypatch):
    store = Store(str(tmp_path))
    details = '{"metadata": {"job_submission_id": "capfilt-1"}}'
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", details)
    monkeypatch.setenv("CAPFILT_SUBMITTED_TO", "http://head:8265")
    record_job(store)
    found = find_job(store)
    assert isinstance(found, JobRecord)
    assert (found.job, found.address, found.command) == ("capfilt-1", "http://head:8265", None)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    record_job(store)
    assert find_job(store) is None
    store.put("lease/job.json", b"{")
    assert find_job(store) is None
