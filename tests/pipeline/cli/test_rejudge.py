"""`capfilt rejudge` on the command line: what it prints, exit codes, and what it does not load."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from tests.judged_run import JudgedRun, snapshot
from tests.runs import walk


@pytest.fixture
def run(tmp_path):
    return JudgedRun(tmp_path / "run").create()


def call(run, *words):
    return CliRunner().invoke(app, ["rejudge", run.config.run.dir, *words])


def lines_of(result):
    return [" ".join(line.split()) for line in result.stdout.splitlines()]


def test_prints_what_the_set_and_the_run_keep(run):
    result = call(run, "--name", "s", "--keep", "web: top 25% by itc per source", "--drop-flag", "duplicate")
    assert result.exit_code == 0, result.output
    lines = lines_of(result)
    assert lines[0] == "origin judged run keeps s keeps"
    judged = [row for row in run.rows if row["kept"] is not None]
    for line, origin in zip(lines[1:3], ("web", "synthetic"), strict=True):
        own = [row for row in judged if row["origin"] == origin]
        kept = sum(row["kept"] for row in own)
        assert line.startswith(f"{origin} {len(own)} {kept} ({kept / len(own):.1%}) ")
    assert lines[3] == "policy keep web: top 25% by itc per source; drop flag duplicate"
    assert "(source a): " in lines[4] and lines[4].endswith("keeps 14 of 54")
    assert lines[-2:] == [
        f"verdicts {run.config.run.dir}/verdicts/s/1/",
        f"look capfilt report {run.config.run.dir} --verdicts s",
    ]
    assert "unchanged the set was complete" in lines_of(call(run, "--name", "s"))
    run.write("a", 1, seed=99)
    assert "made again the candidates of round 1 had changed since" in lines_of(call(run, "--name", "s"))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--name", "s"], "error: no rule; give --keep, --drop or --drop-flag"),
        (["--name", "default", "--keep", "true"], "error: --name default: the verdicts of the run itself"),
        (["--name", "s", "--keep", "foo > 1"], "error: --keep \"foo > 1\": unknown column 'foo'"),
        (["--name", "s", "--keep", "itm > 1", "--round", "3"], "error: --round 3: not bootstrapped"),
    ],
)
def test_mistake_is_one_line_with_code_2_and_writes_nothing(run, words, part):
    before = snapshot(run)
    result = call(run, *words)
    assert result.exit_code == 2 and result.stderr.startswith(part) and result.stderr.count("\n") == 1
    assert snapshot(run) == before


def test_needs_neither_ray_nor_torch(run):
    words = ["capfilt", "rejudge", run.config.run.dir, "--name", "s", "--keep", "itm > 0.1"]
    code = (
        f"import sys; sys.argv = {words!r}\n"
        "from capfilt.pipeline.cli.app import main\n"
        "try: main()\n"
        "except SystemExit as done: assert not done.code\n"
        "print([name for name in ('ray', 'torch') if name in sys.modules])"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "records/verdicts/s/1.json" in walk(run.store)
