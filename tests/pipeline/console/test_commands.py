"""Commands printed for the user."""

import shlex

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from capfilt.pipeline.console.commands import noise_ratio_query, resume_command, shell_command


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
