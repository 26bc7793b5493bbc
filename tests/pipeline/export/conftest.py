import pytest

from tests.pipeline.export.exported_run import make_run


@pytest.fixture(scope="session")
def exported_run(tmp_path_factory):
    """A bootstrapped run, opened for reading. Tests must not change it."""
    return make_run(tmp_path_factory.mktemp("exported"))
