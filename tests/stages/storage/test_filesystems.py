"""Options of filesystems: the user's, the environment's and the defaults."""

import pytest

from capfilt.stages.storage.filesystems import filesystem_options, protocol_of


def test_the_users_options_and_the_environment_override_the_default_retries(monkeypatch):
    monkeypatch.delenv("AWS_MAX_ATTEMPTS", raising=False)
    monkeypatch.delenv("AWS_RETRY_MODE", raising=False)
    defaults = {"mode": "standard", "total_max_attempts": 8}
    assert filesystem_options("s3://b/run")["config_kwargs"] == {"retries": defaults}
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    assert filesystem_options("s3a://b/run")["config_kwargs"]["retries"] == {"mode": "standard"}
    monkeypatch.setenv("AWS_RETRY_MODE", "adaptive")
    assert filesystem_options("s3://b/run")["config_kwargs"]["retries"] == {}
    given = {"profile": "me", "config_kwargs": {"retries": {"total_max_attempts": 3}, "read_timeout": 99}}
    assert filesystem_options("s3://b/run", given) == given | {"use_listings_cache": False}


def test_listings_are_cached_nowhere_but_where_the_user_asks_for_it():
    assert filesystem_options("gs://b/run") == {"use_listings_cache": False}
    assert filesystem_options("gs://b/run", {"use_listings_cache": True}) == {"use_listings_cache": True}
    assert filesystem_options("/data/run") == {} == filesystem_options("memory://run")


@pytest.mark.parametrize(
    ("address", "protocol"),
    [
        ("s3://b/run", "s3"),
        ("s3a://b/run", "s3"),
        ("/data", "file"),
        ("local:///data", "file"),
        ("gs://b", "gs"),
    ],
)
def test_protocol(address, protocol):
    assert protocol_of(address) == protocol
