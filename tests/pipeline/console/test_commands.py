"""Commands printed for the user."""

import os
import shlex
import subprocess
import sys

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capfilt.pipeline.console.commands import duckdb_command, noise_ratio_query, resume_command, shell_command


def test_shell_command_quotes_what_a_shell_would_split():
    command = shell_command(["capfilt", "run", "a b.yaml"], ["run.dir=/x/run #2", "run.seed=1"])
    assert command == "capfilt run 'a b.yaml' --set 'run.dir=/x/run #2' --set run.seed=1"
    assert shlex.split(command)[4] == "run.dir=/x/run #2"


def test_resume_command_names_the_present_place_of_the_run():
    assert (
        resume_command("moved here/", ["run.seed=1"])
        == "capfilt run 'moved here/config.yaml' --set 'run.dir=moved here' --set run.seed=1"
    )


def test_noise_ratio_query_runs_in_duckdb(tmp_path):
    folder = tmp_path / "rounds/2/web"
    folder.mkdir(parents=True)
    rows = {"origin": ["web", "web", "web", "web", "synthetic"], "kept": [True, False, False, None, True]}
    pq.write_table(pa.table(rows), folder / "000000.parquet")
    ratios = duckdb.sql(noise_ratio_query(str(tmp_path), 2)).fetchall()
    assert sorted(ratios) == [("synthetic", 0.0), ("web", 1 - 1 / 3)]


@pytest.mark.parametrize("name", ["run", "it's $HOME `x`"])
def test_query_command_runs_with_the_package_where_there_is_no_duckdb_command(tmp_path, monkeypatch, name):
    folder = tmp_path / name / "rounds/1/web"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"origin": ["web", "web"], "kept": [True, False]}), folder / "000000.parquet")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr("capfilt.pipeline.console.commands.shutil.which", lambda name: None)
    command = duckdb_command(noise_ratio_query(str(tmp_path / name), 1))
    assert command.startswith(sys.executable)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "0.5" in done.stdout and "web" in done.stdout


@pytest.mark.parametrize("name", ["run", "it's"])
def test_query_command_reads_a_store_without_an_extension_of_duckdb(healthy_s3, monkeypatch, name):
    monkeypatch.setenv("AWS_ENDPOINT_URL", healthy_s3.endpoint)
    place = f"bucket/queried/{name}/rounds/1/web/000000.parquet"
    table = pa.table({"origin": ["web", "web"], "kept": [True, False]})
    with fsspec.filesystem("s3", endpoint_url=healthy_s3.endpoint).open(place, "wb") as file:
        pq.write_table(table, file)
    monkeypatch.setattr("capfilt.pipeline.console.commands.shutil.which", lambda name: None)
    command = duckdb_command(noise_ratio_query(f"s3://bucket/queried/{name}", 1))
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "0.5" in done.stdout and "web" in done.stdout


@pytest.mark.parametrize("name", ["run", "it's $HOME `x`"])
def test_query_command_gives_the_query_to_the_duckdb_command(tmp_path, monkeypatch, name):
    program = tmp_path / "duckdb"
    program.write_text('#!/bin/sh\nprintf "%s" "$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    query = noise_ratio_query(name, 1)
    done = subprocess.run(["bash", "-c", duckdb_command(query)], capture_output=True, text=True, check=True)
    assert done.stdout == query
