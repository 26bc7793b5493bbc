"""Settings of the fetch stage: values that contradict each other, and the settings of the downloads."""

from dataclasses import replace
from typing import Any

import pytest

from capfilt.stages.fetch.config import FetchConfig
from capfilt.stages.fetch.http.config import DownloadConfig
from capfilt.stages.images.decode import DecodeConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "http://a/", "image_root": "/b"}, "remove one"),
        ({"base_url": "s3://a/"}, "starts with http"),
        ({"base_url": "httpx://a/"}, "starts with http"),
        ({"contact": "a\r\nX-Evil: 1"}, "printable ASCII"),
        ({"contact": "ünï@example.org"}, "printable ASCII"),
        ({"optout": ("NoAI",)}, "lower case"),
        ({"optout": ("noai ",)}, "lower case"),
        ({"optout": ("",)}, "lower case"),
    ],
)
def test_invalid_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        FetchConfig(**changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("base_url", ["http://a/", "HTTPS://a/b"])
def test_base_url(base_url: str) -> None:
    assert FetchConfig(base_url=base_url).base_url == base_url


def test_user_agent_has_the_contact() -> None:
    assert DownloadConfig().user_agent == "capfilt/0.1 (image-text corpus builder)"
    assert DownloadConfig(contact="me@example.org").user_agent == "capfilt/0.1 (+me@example.org)"


def test_host_settings_are_the_settings_of_downloads() -> None:
    plain = FetchConfig()
    other_images = replace(plain, base_url="http://b.test", image=DecodeConfig(min_side=1), decode_threads=3)
    assert type(plain.host_settings()) is DownloadConfig
    assert plain.host_settings() == other_images.host_settings() == DownloadConfig()
    assert replace(plain, per_host=1).host_settings() == DownloadConfig(per_host=1)
