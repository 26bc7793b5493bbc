"""Output streams: write errors are ignored, pipes are wide, brackets are no markup."""

import io
import os
import sys

import pytest
from rich.console import Console

from capfilt.pipeline.console import streams
from capfilt.pipeline.console.streams import (
    PIPE_WIDTH,
    BrokenPipeSafe,
    flush_output,
    make_console,
    print_labeled,
)


class FullDisk(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")

    def flush(self):
        raise OSError(28, "No space left on device")


def test_write_errors_are_ignored_and_everything_else_is_passed_on():
    stream = BrokenPipeSafe(FullDisk())
    assert stream.write("abc") == 3
    stream.flush()
    assert stream.isatty() is False
    text = io.StringIO()
    assert BrokenPipeSafe(text).write("abc") == 3 and text.getvalue() == "abc"


def test_other_errors_of_a_stream_are_raised():
    closed = io.StringIO()
    closed.close()
    with pytest.raises(ValueError, match="closed"):
        BrokenPipeSafe(closed).write("abc")


def test_piped_output_is_wide_and_a_terminal_has_its_own_width(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert make_console().width == PIPE_WIDTH == 160
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "77")
    assert make_console().width == 77


def test_labeled_message_is_one_line_without_markup():
    text = io.StringIO()
    message = "[Errno 2] no [/data/x] in [red]" + " and more" * 30
    print_labeled(Console(file=text, width=40), "error", message, "bold red")
    assert text.getvalue() == f"error {message}\n"


def test_output_that_cannot_be_flushed_is_dropped(monkeypatch):
    """Otherwise Python exits with code 120."""
    reader, writer = os.pipe()
    os.close(reader)
    broken, good = os.fdopen(writer, "w"), io.StringIO()
    monkeypatch.setattr(streams, "sys", type("sys", (), {"stdout": broken, "stderr": good}))
    broken.write("lost")
    flush_output()
    broken.write("lost as well")
    broken.close()
