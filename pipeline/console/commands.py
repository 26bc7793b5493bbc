"""Commands that are printed for the user to copy into a shell."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Sequence

from capfilt.stages.storage.layout import DEFAULT_VERDICTS, verdict_set_folder

_PLAIN = re.compile(r"[\w ./:=@%+,*()<>-]*")
"""Text that means the same unquoted in SQL, in Python and between double quotes of a shell."""


def noise_ratio_query(run_dir: str, round_: int, verdicts: str = DEFAULT_VERDICTS) -> str:
    """SQL for DuckDB: the noise ratio of each origin in a round, by a set of verdicts."""
    is_run = verdicts == DEFAULT_VERDICTS
    folder = f"rounds/{round_}" if is_run else verdict_set_folder(verdicts, round_)
    files = f"{run_dir}/{folder}/**/*.parquet".replace("'", "''")
    return f"SELECT origin, 1-avg(kept::int) FROM '{files}' GROUP BY 1"


def duckdb_command(query: str) -> str:
    """A command that prints the result of a query with the DuckDB that is installed: its command line, or the
    Python package that capfilt itself uses."""
    is_plain = _PLAIN.fullmatch(query.replace("'", "")) is not None
    if shutil.which("duckdb"):
        return f'duckdb -c "{query}"' if is_plain else f"duckdb -c {shlex.quote(query)}"
    imports = "import duckdb"
    if scheme := re.search(r"FROM '([a-z0-9]+)://", query):
        # DuckDB's own access to a store is an extension that it would have to download.
        imports += f", fsspec; duckdb.register_filesystem(fsspec.filesystem('{scheme[1]}'))"
    python = "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)
    if is_plain:
        return f"{python} -c \"{imports}; print(duckdb.sql('''{query}'''))\""
    return f"{python} -c {shlex.quote(f'{imports}; print(duckdb.sql({query!r}))')}"


def rejudge_example(run_dir: str) -> str:
    """A command that makes a set of verdicts by another threshold."""
    return shell_command(["capfilt", "rejudge", run_dir, "--name", "strict", "--keep", "itm >= 0.7"], [])


def shell_command(words: Sequence[str], overrides: Sequence[str]) -> str:
    """A command with its `--set` overrides, quoted for a shell."""
    return shlex.join([*words, *(word for override in overrides for word in ("--set", override))])


def resume_command(run_dir: str, overrides: Sequence[str]) -> str:
    """The command that resumes a run from its directory, also after the directory was moved."""
    place = run_dir.rstrip("/")
    return shell_command(["capfilt", "run", f"{place}/config.yaml"], [f"run.dir={place}", *overrides])
