"""Fixtures for the stages."""

from collections.abc import Iterator

import pytest

from tests.s3_server import ENVIRONMENT, S3


@pytest.fixture
def calm_s3(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """The S3 server without troubles of this or an earlier test; the environment has its credentials, and no
    endpoint."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    s3.calm()
    yield s3
    s3.calm()
