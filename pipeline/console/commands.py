"""Commands that are printed for the user to copy into a shell."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def noise_ratio_query(run_dir: str, round_: int) -> str:
    """SQL for DuckDB: the noise ratio of each origin in a round."""
    return f"SELECT origin, 1-avg(kept::int) FROM '{run_dir}/rounds/{round_}/**/*.parquet' GROUP BY 1"


def shell_command(words: Sequence[str], overrides: Sequence[str]) -> str:
    """A command with its `--set` overrides, quoted for a shell."""
    return shlex.join([*words, *(word for override in overrides for word in ("--set", override))])


def resume_command(run_dir: str, overrides: Sequence[str]) -> str:
    """The command that resumes a run from its directory, also after the directory was moved."""
    place = run_dir.rstrip("/")
    return shell_command(["capfilt", "run", f"{place}/config.yaml"], [f"run.dir={place}", *overrides])
