"""Kill a process at a chosen step, without a process: a call raises `Killed` instead of doing its work; and
the signals that a process starts with."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Killed(Exception):
    """The process would have died here."""


def kill_at(
    monkeypatch: Any,
    step: int,
    owner: type,
    names: tuple[str, ...],
    *,
    counts: Callable[..., bool] = lambda *args: True,
    after: Callable[[], None] = lambda: None,
) -> list[str]:
    """Let the call number `step` (from 0) of these methods, and all later calls, raise `Killed`.

    Args:
        counts: whether a call with these arguments is a step; others always do their work.
        after: called after each step.

    Returns:
        Names of the methods of the steps that were done, extended by every step.
    """
    done: list[str] = []

    def patched(name: str) -> Callable[..., Any]:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if not counts(*args):
                return original(*args, **kwargs)
            if len(done) == step:
                raise Killed
            done.append(name)
            result = original(*args, **kwargs)
            after()
            return result

        return call

    for name in names:
        monkeypatch.setattr(owner, name, patched(name))
    return done


@contextmanager
def default_signals() -> Iterator[None]:
    """Handle signals as a process does that a terminal starts, for the body's duration and in processes that
    the body starts.

    A shell starts background jobs with SIGINT ignored and `nohup` with SIGHUP, and children inherit that.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    handlers[signal.SIGHUP] = signal.SIG_DFL
    before = {signum: signal.signal(signum, handler) for signum, handler in handlers.items()}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
