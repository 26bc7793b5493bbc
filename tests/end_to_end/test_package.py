"""Every process of a run imports capfilt from the same place, whatever modules the working directory has.

Tested from a checkout without installation, an editable installation and a wheel; in the driver, the Ray
workers, the training workers, and the subprocess in which a stage runs after a row has killed its worker.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.tiny import tiny_data, write_config

ROOT = Path(__file__).parents[2]
FOLDERS = ("capfilt", "pipeline", "stages", "models", "cluster", "configs")
KILLED_ROW = "00000200007"
ROLES = {"driver", "worker", "training", "child"}


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what is packaged."""
    folder = tmp_path_factory.mktemp("sources")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """Folder of the programs of an environment that has the dependencies of capfilt, but not capfilt."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    site = folder / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    # A .pth file inside that folder, such as that of an editable capfilt, has no effect from here.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.fixture
def shadowing_folder(tmp_path):
    """A working directory with modules that have the names of our packages and raise when imported."""
    folder = tmp_path / "shadowing"
    folder.mkdir()
    for name in FOLDERS[1:]:
        (folder / f"{name}.py").write_text("raise RuntimeError('a module of the user')\n")
    return folder


def run(command, folder, tmp_path):
    """Run the whole tiny loop; return {role: folders from which its processes import capfilt}."""
    data = tiny_data(tmp_path)
    data["cluster"] = {"stall_seconds": 60}
    config = write_config(tmp_path / "config.yaml", data)
    (tmp_path / "imports").mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent / "import_log"),
        "CAPFILT_IMPORT_LOG": str(tmp_path / "imports"),
        "CAPFILT_KILLED_ROW": KILLED_ROW,
    }
    environment.pop("VIRTUAL_ENV", None)
    result = subprocess.run(
        [*command, "run", str(config)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=390,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = pq.read_table(tmp_path / "run/corpus/web/000002.parquet", columns=["key", "status"]).to_pylist()
    assert {row["status"] for row in rows} == {"success"}  # the corpus was committed before
    judged = pq.read_table(tmp_path / "run/rounds/1/web/000002.parquet", columns=["key"])["key"].to_pylist()
    assert KILLED_ROW not in judged and len(set(judged)) == 19
    found = {}
    for name in os.listdir(tmp_path / "imports"):
        role, _, path = name.partition(" ")
        found.setdefault(role, set()).add(Path(path.replace("+", "/")).parents[2])
    return found


@pytest.mark.long
def test_a_checkout_needs_no_installation(sources, bare, tmp_path):
    found = run([str(bare / "python"), "-m", "pipeline"], sources, tmp_path)
    assert set(found) == ROLES
    for places in found.values():
        # `parents[2]` of pipeline/execute.py is one level higher than that of stages/bootstrap/caption.py.
        assert places <= {sources, sources.parent}


@pytest.mark.long
def test_an_editable_installation_ignores_the_working_directory(shadowing_folder, tmp_path):
    found = run([str(Path(sys.executable).with_name("capfilt"))], shadowing_folder, tmp_path)
    assert set(found) == ROLES
    for places in found.values():
        assert places <= {ROOT, ROOT.parent}


@pytest.mark.long
def test_a_wheel_holds_exactly_its_package(sources, bare, shadowing_folder, tmp_path):
    wheels = tmp_path / "wheels"
    pip = [str(bare / "python"), "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", str(wheels), str(sources)], check=True)
    (wheel,) = wheels.iterdir()
    with zipfile.ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"capfilt"}
    subprocess.run([*pip, "install", "--no-deps", str(wheel)], check=True)
    try:
        site = Path(
            sysconfig.get_path("purelib", vars={"base": str(bare.parent), "platbase": str(bare.parent)})
        )
        found = run([str(bare / "capfilt")], shadowing_folder, tmp_path)
    finally:
        subprocess.run([*pip, "uninstall", "--yes", "capfilt"], check=True)
    assert set(found) == ROLES
    for places in found.values():
        assert places <= {site / "capfilt", site}
