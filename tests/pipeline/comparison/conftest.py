import pytest

from tests.pipeline.comparison.compared_runs import TwoRuns, make_two_runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> TwoRuns:
    return make_two_runs(tmp_path_factory.mktemp("runs"))
