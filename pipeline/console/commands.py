"""NEW FILE."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


def ratio_query(run_dir: str, round_: int) -> str:
    """The noise ratio of each origin, for DuckDB."""
    return f"SELECT origin, 1-avg(kept::int) FROM '{run_dir}/rounds/{round_}/**/*.parquet' GROUP BY 1"


def with_overrides(words: Sequence[str], overrides: Sequence[str]) -> str:
    """A command with its overrides, as a shell reads it."""
    return shlex.join([*words, *(word for override in overrides for word in ("--set", override))])


def resume_command(run_dir: str, overrides: Sequence[str]) -> str:
    """The command that makes the rest of a run, wherever its directory has been moved to."""
    place = run_dir.rstrip("/")
    return with_overrides(["capfilt", "run", f"{place}/config.yaml"], [f"run.dir={place}", *overrides])
