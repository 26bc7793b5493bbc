"""What a command shows while no node runs."""

import io
import re
from types import SimpleNamespace

import pytest
from rich.console import Console

from capfilt.pipeline.console import activity as activity_module
from capfilt.pipeline.console.activity import QUIET_SECONDS, Activity
from capfilt.pipeline.console.progress import LINE_EVERY_SECONDS

STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until a test moves it."""
    clock = SimpleNamespace(now=1000.0)
    stopped = SimpleNamespace(monotonic=lambda: clock.now, strftime=activity_module.time.strftime)
    monkeypatch.setattr(activity_module, "time", stopped)
    return clock


@pytest.fixture
def screen():
    return io.StringIO()


@pytest.fixture
def activity(screen):
    """Without its thread: the tests draw."""
    return Activity(Console(file=screen, width=60, markup=False))


def lines(screen):
    found = screen.getvalue().splitlines()
    assert all(re.match(STAMP, line) for line in found)
    return [re.sub(STAMP, "", line) for line in found]


def test_long_work_has_a_line_now_and_then(activity, screen, clock):
    activity("starting Ray [/x]")
    clock.now += QUIET_SECONDS - 0.1
    activity.draw()
    assert lines(screen) == []
    clock.now += 0.1
    activity.draw()
    activity.draw()
    assert lines(screen) == ["starting Ray [/x] (5 s)"]
    clock.now += LINE_EVERY_SECONDS
    activity.draw()
    assert lines(screen)[1:] == ["starting Ray [/x] (20 s)"]


def test_work_that_is_described_anew_goes_on(activity, screen, clock):
    activity.update("encoding 1 of 9 images")
    clock.now += QUIET_SECONDS - 0.1
    activity.update("encoding 2 of 9 images")
    clock.now += 0.1
    activity.draw()
    assert lines(screen) == ["encoding 2 of 9 images (5 s)"]
    activity.stop()
    clock.now += 60
    activity.draw()
    assert len(lines(screen)) == 1


def test_each_activity_has_its_own_time_and_none_is_shown_after_the_last(activity, screen, clock):
    activity("one")
    clock.now += 60
    activity("two")
    activity.draw()
    assert lines(screen) == []
    clock.now += QUIET_SECONDS
    activity.draw()
    assert lines(screen) == ["two (5 s)"]
    activity.stop()
    clock.now += 60
    activity.draw()
    assert len(lines(screen)) == 1


def test_no_gap_is_longer_than_30_seconds():
    assert QUIET_SECONDS + LINE_EVERY_SECONDS < 30


def test_a_thread_prints_while_the_body_blocks(monkeypatch, screen):
    monkeypatch.setattr(activity_module, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(activity_module, "TICK_SECONDS", 0.01)
    printed = activity_module.threading.Event()
    console = Console(file=screen)
    monkeypatch.setattr(console, "print", lambda *args, **options: printed.set())
    with Activity(console) as activity:
        activity("opening checkpoints")
        assert printed.wait(60)


def test_terminal_shows_a_spinner():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, color_system=None, legacy_windows=False, width=60)
    with Activity(console) as activity:
        activity("starting Ray [/x]")
        activity("opening [b]checkpoints")
    assert "starting Ray [/x]" in screen.getvalue() and "opening [b]checkpoints" in screen.getvalue()
    assert screen.getvalue().count("\x1b[?25h") == screen.getvalue().count("\x1b[?25l") > 0
