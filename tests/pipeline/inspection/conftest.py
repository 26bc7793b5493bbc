import pytest

from tests.pipeline.export.exported_run import make_run


@pytest.fixture
def made_run(tmp_path):
    """A bootstrapped run made by hand, opened for reading."""
    return make_run(tmp_path)
