"""What the fault tests compare with."""

import pytest

from tests.faults.harness import chain_data, finish, start
from tests.tiny import write_config


@pytest.fixture(scope="session")
def models(finished):
    return finished[0] / "models"


@pytest.fixture(scope="session")
def undisturbed(models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    config = write_config(folder / "config.yaml", chain_data(folder, models))
    code, output = finish(start(config), 150)
    assert code == 0, output
    return folder / "run"
