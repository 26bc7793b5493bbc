"""What happens around the nodes of a run, without Ray."""

import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from rich.console import Console

from capfilt.pipeline import execute as module
from capfilt.pipeline.config.load import parse_config
from capfilt.pipeline.console.signals import SIGNALS, Interrupted
from tests.killing import default_signals
from tests.runs import prepared_run


@pytest.mark.parametrize("signum", SIGNALS)
@pytest.mark.parametrize("when", ["start", "end"])
def test_signal_while_ray_starts_or_ends_is_a_stop_like_any_other(tmp_path, monkeypatch, signum, when):
    (tmp_path / "urls.csv").write_text("url,caption\nhttp://127.0.0.1:9/a.jpg,a\n")
    data = {"run": {"dir": str(tmp_path / "run")}, "sources": {"web": {"kind": "web"}}}
    data["sources"]["web"]["rows"] = {"manifest": str(tmp_path / "urls.csv")}
    prepared = prepared_run(parse_config(data, "c.yaml"))
    ran = []

    @contextmanager
    def session(config):
        if when == "start":
            os.kill(os.getpid(), signum)
        yield
        if when == "end":
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(module, "session", session)
    monkeypatch.setattr(module, "count_nodes", lambda: 1)
    monkeypatch.setattr(module, "StatusBoard", lambda: SimpleNamespace(read=lambda timeout: {}))
    monkeypatch.setattr(module, "_run_node", lambda context, node, state: ran.append(node.name) or "done")
    with default_signals():
        if when == "start":
            with pytest.raises(Interrupted) as interrupted:
                module.execute(prepared, Console(quiet=True))
            assert interrupted.value.exit_code == 128 + signum and not ran
        else:
            assert module.execute(prepared, Console(quiet=True)).done == ran == ["fetch"]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
