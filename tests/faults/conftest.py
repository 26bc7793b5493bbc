"""What the fault tests compare with: a run without faults."""

import pytest

from tests.faults.harness import chain_data, start, wait_for_exit
from tests.tiny import write_config


@pytest.fixture(scope="session")
def models(finished):
    return finished[0] / "models"


@pytest.fixture(scope="session")
def reference_run(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    config = write_config(folder / "config.yaml", chain_data(folder, models))
    code, output = wait_for_exit(start(config), 150)
    assert code == 0, output
    return folder / "run"
