"""Credentials have no place in a config or an address: a config is written into the run directory, shown by `check`, and
sent to bug reports, and so are the addresses in it. Nothing here ever repeats a value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

_SECRET = (
    r".*(secret|token|password|passwd|pwd|passphrase|apikey|accesskey|accesskeyid|secretkey|signature|credentials?"
    r"|authorization)|auth"
)
IN_QUERIES = re.compile(_SECRET)
"""Keys of a query that carry a credential: presigned urls (S3, GCS), bearer tokens. In lower case, letters and digits
alone, as all names here."""
IN_OPTIONS = re.compile(rf"{_SECRET}|.*(?<!kms)key|.*cookies?|.*connectionstring|username|pass|bearer")
"""Storage options, and headers among them, that fsspec's filesystems and their clients take credentials by. A KMS key is
named, not given."""
AZURE_SAS = ({"sig", "sv"}, {"sig", "se"})
"""Keys that make a query one of Azure's signatures; `sig` alone may be anything."""
HARMLESS = (None, "", True, False, "anon", "cloud", "google_default", "cache")
"""Values that say where credentials are found and are none (gcsfs' `token`)."""
CONTAINER_BEFORE_AT = ("abfs", "abfss", "git", "github", "hf", "wasb", "wasbs")
"""Schemes in which no user stands before the @, but a container or a repository."""

# A port, and the colons of an ARN or of an IPv6 address, begin no password. One of AWS may have slashes in it.
_USER = re.compile(r"(?:^|::)\s*([\w+.-]+)://(?:[^/?#\s@]*@|(?!arn:|\[)[^/@\s:]+:(?!\d*[/?#])[^@\s]*@)")
_QUERY = re.compile(r"[?&;#]([^=&;#?\s]+)=([^&;#\s]*)")

INSTEAD = (
    "configs and addresses are written down, so put it into the environment (AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY, ...) or into a profile, and give that one's name (profile: ...)"
)


def credentials_in(data: Any, path: str = "") -> Iterator[str]:
    """One line for every credential in a config's data: among storage options by name, in addresses by their form.

    Args:
        data: a config, a section or a value of it.
        path: dotted, of `data`; what the lines begin with.
    """
    if isinstance(data, dict):
        for name, value in data.items():
            inside = f"{path}.{name}" if path else str(name)
            option = "storage_options" in path and IN_OPTIONS.fullmatch(_plain(str(name)))
            if option and value not in HARMLESS:
                yield f"{inside}: this is a credential; {INSTEAD}"
            else:
                yield from credentials_in(value, inside)
    elif isinstance(data, (list, tuple)):
        for number, value in enumerate(data):
            yield from credentials_in(value, f"{path}.{number}")
    elif isinstance(data, str) and (what := _credential_of(data)) is not None:
        yield f"{path}: this address holds {what}, which is a credential: leave it out; {INSTEAD}"


def _credential_of(text: str) -> str | None:
    """What an address has that is a credential, without its value; None if it has none, or `text` is no address."""
    if "://" not in text:
        return None
    if any(found[1].lower() not in CONTAINER_BEFORE_AT for found in _USER.finditer(text)):
        return "a user or password before the @"
    named = {unquote(name): value for name, value in _QUERY.findall(text)}
    for name, value in named.items():
        if IN_QUERIES.fullmatch(_plain(name)) and value not in HARMLESS:
            return name
    if any(keys <= set(named) for keys in AZURE_SAS):
        return "sig"
    return None


def _plain(name: str) -> str:
    """A name as it is compared: X-Api-Key, x_api_key and xApiKey are one."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
