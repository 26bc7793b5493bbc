"""Output streams: write errors are ignored, pipes are wide, and foreign text controls no terminal."""

import io
import os
import sys

import pytest
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from capfilt.pipeline.console import streams
from capfilt.pipeline.console.streams import (
    PIPE_WIDTH,
    BrokenPipeSafe,
    SafeConsole,
    escape_controls,
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


HOSTILE = "\x1b]0;title\x07\x1b[2J\x9b31m\r\x08\u202egpj.exe\udcff [/x] [red] :smile:"
ESCAPED = r"\x1b]0;title\x07\x1b[2J\x9b31m\r\x08\u202egpj.exe\udcff [/x] [red] :smile:"
PRINTED = ESCAPED.replace(r"\x07", "").replace(r"\r", "").replace(r"\x08", "")
"""What is left of it by rich, which drops bells, backspaces and carriage returns itself."""


def test_control_characters_are_escaped_and_text_is_not():
    assert escape_controls(HOSTILE) == ESCAPED
    assert escape_controls("naïve 日本\t👩‍👩‍👧\n") == "naïve 日本\t👩‍👩‍👧\n"


def test_foreign_text_cannot_control_the_terminal():
    stream = io.StringIO()
    console = SafeConsole(file=stream, width=120, force_terminal=True, color_system="standard")
    console.print(HOSTILE)
    console.print(Text(HOSTILE, style="bold"))
    assert stream.getvalue() == f"{PRINTED}\n\x1b[1m{PRINTED}\x1b[0m\n"


def test_foreign_text_in_a_table_cannot_control_the_terminal():
    stream = io.StringIO()
    table = Table("a\x1b[2J", box=None)
    table.add_row("\x1b]0;title [/x]")
    SafeConsole(file=stream, width=120).print(table)
    assert r"a\x1b[2J" in stream.getvalue() and r"\x1b]0;title" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_a_live_table_still_moves_the_cursor():
    stream = io.StringIO()
    console = SafeConsole(file=stream, width=120, force_terminal=True)
    with Live(Text(HOSTILE), console=console, auto_refresh=False) as live:
        live.update(Text("next"), refresh=True)
    assert PRINTED in stream.getvalue() and "\x1b[2K" in stream.getvalue()


def test_console_of_the_commands_is_safe(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    make_console().print(HOSTILE)
    assert sys.stdout.getvalue() == PRINTED + "\n"
