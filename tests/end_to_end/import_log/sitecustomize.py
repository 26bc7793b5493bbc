"""Records from where each process of a run imports capfilt, and kills the process that captions a given row.

Python imports this file in every process whose PYTHONPATH names its folder. CAPFILT_IMPORT_LOG is a folder,
in which each process creates a file `<role> <path of a module, with + for />`. CAPFILT_KILLED_ROW is the
row's key.
"""

import importlib.abc
import importlib.util
import os
import signal
import sys
from pathlib import Path

IMPORT_LOG, KILLED_ROW = Path(os.environ["CAPFILT_IMPORT_LOG"]), os.environ["CAPFILT_KILLED_ROW"]
IS_CHILD = any("subprocess_stage" in word for word in sys.orig_argv)
ROLES = {
    "capfilt.pipeline.execute": "driver",
    "capfilt.stages.bootstrap.caption": "child" if IS_CHILD else "worker",
    "capfilt.pipeline.training.learner": "training",
}


def kill_at_row(module):
    original = module.Caption.__call__

    def call(self, batch):
        rows = zip(batch["key"].to_pylist(), batch["status"].to_pylist(), strict=True)
        if (KILLED_ROW, "success") in rows:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch)

    module.Caption.__call__ = call


class ImportRecorder(importlib.abc.MetaPathFinder):
    """Records and patches modules when they are imported."""

    def find_spec(self, name, path, target=None):
        role = ROLES.pop(name, None)
        if role is None:
            return None
        spec = importlib.util.find_spec(name)
        (IMPORT_LOG / f"{role} {spec.origin.replace('/', '+')}").touch()
        original = spec.loader.exec_module

        def exec_module(module):
            original(module)
            if name.endswith("caption"):
                kill_at_row(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, ImportRecorder())
