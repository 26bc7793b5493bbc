"""The file that says how a demonstration corpus was made."""

import pytest
from typer.testing import CliRunner

from capfilt.pipeline.cli.app import app
from capfilt.pipeline.corpora import clipart, shapes
from capfilt.pipeline.corpora.clipart import ClipartConfig, make_clipart
from capfilt.pipeline.corpora.shapes import ShapesConfig, make_shapes
from tests.tiny import tiny_data, write_config

DAMAGED = [b"", b'{"half', b"[]", b"3", b"\xff\xfe", b"[" * 100_000]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_marker_is_one_line(tmp_path, content):
    for module, make, config in (
        (shapes, make_shapes, ShapesConfig()),
        (clipart, make_clipart, ClipartConfig()),
    ):
        (tmp_path / module.MARKER).write_bytes(content)
        with pytest.raises(ValueError, match=rf"/{module.MARKER} is damaged, .*: remove {tmp_path}$"):
            make(config, tmp_path)


@pytest.mark.parametrize("content", [b"{}", b'{"config": 3}'])
def test_a_marker_without_a_config_is_that_of_another_corpus(tmp_path, content):
    (tmp_path / clipart.MARKER).write_bytes(content)
    with pytest.raises(ValueError, match="holds a clip-art corpus of another config"):
        make_clipart(ClipartConfig(), tmp_path)


def test_the_command_ends_with_one_line(tmp_path):
    (tmp_path / "shapes").mkdir()
    (tmp_path / "shapes" / shapes.MARKER).write_bytes(b"{")
    result = CliRunner().invoke(app, ["run", str(write_config(tmp_path / "c.yaml", tiny_data(tmp_path)))])
    assert result.exit_code == 2 and result.output.count("\n") == 1, result.output
    assert f"error: {tmp_path}/shapes/shapes.json is damaged" in result.output
