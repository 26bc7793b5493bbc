"""Each source is fetched with its own settings."""

from pathlib import Path

import pytest

from capfilt.stages.fetch.by_source import FetchBySource
from tests.stages.fetch.hostile_server import JPEG, fetch_config, make_batch

pytestmark = pytest.mark.usefixtures("loopback_only")


def test_each_source_has_its_settings_and_progress_is_that_of_all(tmp_path: Path) -> None:
    for name in ("s", "t"):
        (tmp_path / name).mkdir()
    (tmp_path / "t" / "a.jpg").write_bytes(JPEG)
    stage = FetchBySource({name: fetch_config(image_root=str(tmp_path / name)) for name in ("s", "t")})
    calls: list[int] = []
    stage.on_progress(lambda: calls.append(1))
    assert stage(make_batch("a.jpg"))["status"].to_pylist() == ["missing_file"]
    assert stage(make_batch("a.jpg", source="t"))["status"].to_pylist() == ["success"]
    assert len(calls) == 2
