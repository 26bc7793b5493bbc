"""Credentials have no place in a config: it is written into the run directory, shown by `check`, and sent to bug
reports. Nothing here ever repeats a value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

NAMES = {
    "key", "secret", "token", "username", "password", "passphrase", "aws_access_key_id", "aws_secret_access_key",
    "aws_session_token", "account_key", "sas_token", "connection_string", "client_secret", "credential",
    "authorization", "cookies",
}  # fmt: skip
"""Storage options that fsspec's filesystems and their clients take credentials by."""
HARMLESS = (None, "", "anon", "cloud", "google_default", "cache")
"""Values that say where credentials are found and are none (gcsfs' `token`)."""
INSTEAD = (
    "configs are written down, so put it into the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, ...) "
    "or into a profile, and give that one's name (profile: ...)"
)


def credentials_in(data: Any, path: str = "") -> Iterator[str]:
    """One line for every credential in a config's data: among storage options by name, in addresses as
    `scheme://user:password@host`."""
    if isinstance(data, dict):
        for name, value in data.items():
            inside = f"{path}.{name}" if path else str(name)
            if "storage_options" in path and str(name).lower() in NAMES and value not in HARMLESS:
                yield f"{inside}: this is a credential; {INSTEAD}"
            else:
                yield from credentials_in(value, inside)
    elif isinstance(data, (list, tuple)):
        for number, value in enumerate(data):
            yield from credentials_in(value, f"{path}.{number}")
    elif isinstance(data, str) and re.match(r"[\w+.:-]+://[^/@\s]+:[^/@\s]*@", data):
        yield f"{path}: this address holds user and password; {INSTEAD}"
