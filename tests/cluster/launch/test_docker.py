"""The Dockerfile, what it copies, and the lock of its dependencies."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import capfilt
from capfilt.cluster.submission.environment import locked_versions

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "cluster/launch/docker"
PROGRAMS = Path(sys.executable).parent
DOCKERFILE = FOLDER / "Dockerfile"
SHELL_FILES = [FOLDER / "lock.sh", ROOT / "cluster/launch/slurm/slurm.sh", ROOT / ".ci/run"]


def hadolint(path):
    done = subprocess.run([PROGRAMS / "hadolint", "--no-color", path], capture_output=True, text=True)
    return done.returncode, done.stdout


def test_dockerfile_has_no_findings():
    assert hadolint(DOCKERFILE) == (0, "")


@pytest.mark.parametrize(
    ("wrong", "rule"),
    [
        (("FROM python:3.11.13-slim-bookworm", "FROM python:latest"), "DL3007"),
        (("--no-install-recommends ", ""), "DL3015"),
        (("USER 1000:1000", "USER root"), "DL3002"),
        (("WORKDIR /opt/capfilt", "WORKDIR opt/capfilt"), "DL3000"),
        (("--no-cache-dir --no-deps", "--no-deps"), "DL3042"),
    ],
)
def test_a_fault_of_the_dockerfile_is_found(tmp_path, wrong, rule):
    text = DOCKERFILE.read_text()
    assert wrong[0] in text
    (tmp_path / "Dockerfile").write_text(text.replace(*wrong))
    code, found = hadolint(tmp_path / "Dockerfile")
    assert code == 1 and rule in found


def test_dependencies_are_installed_from_the_lock_before_the_code_is_copied():
    steps = [line for line in DOCKERFILE.read_text().splitlines() if line.startswith(("COPY", "RUN", "USER"))]
    copies = [number for number, step in enumerate(steps) if step.startswith("COPY")]
    assert "requirements.lock" in steps[copies[0]] and steps[copies[1]].endswith(" . .") and len(copies) == 2
    text = DOCKERFILE.read_text()
    assert text.index("--require-hashes --requirement requirements.lock") < text.index(" . .\n")
    assert f"capfilt:{capfilt.__version__}" in text


def test_the_context_is_what_a_wheel_is_built_from():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"  # .venv, runs, data and .git among them
    kept = {line.removeprefix("!") for line in lines if line.startswith("!")}
    setup = re.search(r"FOLDERS = \((.*)\)", (ROOT / "setup.py").read_text())
    packaged = {"capfilt", *re.findall(r'"(\w+)"', setup[1])}
    files = {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
    assert kept == packaged | files
    assert all((ROOT / name).exists() for name in kept)


def broken_bounds(dependencies, locked):
    """The requirements that the lock does not meet."""
    requirements = [Requirement(each) for each in dependencies]
    return [
        str(each)
        for each in requirements
        if each.name.lower() not in locked or not each.specifier.contains(locked[each.name.lower()])
    ]


def test_the_lock_meets_the_bounds_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locked = locked_versions((FOLDER / "requirements.lock").read_text())
    assert len(locked) > len(project["dependencies"]) > 30
    assert broken_bounds(project["dependencies"], locked) == [], "run cluster/launch/docker/lock.sh"


def test_a_lock_that_is_too_old_is_found():
    locked = locked_versions((FOLDER / "requirements.lock").read_text())
    assert broken_bounds(["ray>=2.60,<2.61"], {**locked, "ray": "2.59.0"}) == ["ray<2.61,>=2.60"]
    assert broken_bounds(["torch>=2.11"], {"ray": "2.60.0"}) == ["torch>=2.11"]


def test_the_lock_names_no_place_and_has_a_digest_for_each_package():
    text = (FOLDER / "requirements.lock").read_text()
    assert "://" not in text and "file:" not in text
    for block in re.split(r"\n(?=\S)", text.partition("lock.sh\n")[2]):
        assert re.match(r"[\w.-]+==\S+", block) and "--hash=sha256:" in block


def shellcheck(path):
    done = subprocess.run([PROGRAMS / "shellcheck", path], capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("path", SHELL_FILES, ids=lambda path: path.name)
def test_shell_file_has_no_findings(path):
    assert shellcheck(path) == (0, "")


def test_a_fault_of_a_shell_file_is_found(tmp_path):
    text = (ROOT / "cluster/launch/slurm/slurm.sh").read_text()
    assert '"$@"' in text
    (tmp_path / "slurm.sh").write_text(text.replace('"$@"', "$@"))
    code, found = shellcheck(tmp_path / "slurm.sh")
    assert code == 1 and "SC2068" in found
