"""A run directory as one object: opened for reading, or held with the right to write."""

import subprocess
import sys
from pathlib import Path

import pytest

from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.prepare import hold_run, open_run, states
from capfilt.pipeline.rundir.ledger import LedgerError
from capfilt.stages.storage.store import StoreError
from tests.tiny import tiny_data, write_config

ROOT = Path(__file__).parents[3]


@pytest.fixture
def config(tmp_path):
    return parse_config(tiny_data(tmp_path), "test")


def test_directory_need_not_exist_to_be_read(config):
    run_dir = open_run(config)
    assert run_dir.store.url == config.run.dir and not run_dir.store.exists()
    assert set(states(run_dir).values()) == {"new"} and next(iter(run_dir.nodes)) == "fetch"
    assert run_dir.fingerprints.nodes is run_dir.nodes and run_dir.ledger.store is run_dir.store
    assert {name: run_dir.source_kind(name) for name in config.sources} == {
        "human": "human",
        "web": "web",
        "test": "test",
    }


def test_directory_that_is_opened_for_reading_has_no_lease(config):
    with pytest.raises(AssertionError, match="opened for reading"):
        open_run(config).lease  # noqa: B018


def test_lease_is_held_inside_the_block_only(config):
    with hold_run(config, print) as run_dir:
        run_dir.lease.confirm()
        assert run_dir.store.list("lease") == ["000001.json"]
    assert run_dir.store.list("lease") == []


def test_directory_with_other_files_or_without_write_access_cannot_be_held(config, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").touch()
    with pytest.raises(LedgerError, match=r"not a capfilt run"), hold_run(config, print):
        pass
    section = config.run.model_copy(update={"dir": str(tmp_path / "run" / "thesis.tex" / "run")})
    config = config.model_copy(update={"run": section})
    with pytest.raises(StoreError, match=r"cannot write there"), hold_run(config, print):
        pass


def test_states_are_read_without_ray_and_torch(tmp_path):
    path = write_config(tmp_path / "config.yaml", tiny_data(tmp_path))
    code = (
        "import sys; from capfilt.pipeline.config.load import load_config; "
        "from capfilt.pipeline.prepare import hold_run, open_run, states; "
        f"config = load_config({str(path)!r}); print(len(states(open_run(config)))); "
        "hold_run(config, print).__enter__(); print([m for m in ('ray', 'torch') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.split("\n")[:2] == ["8", "[]"]
