"""Find credentials in configs and addresses.

A config is written into the run directory, printed by `capfilt check` and pasted into bug reports, and so are
the addresses in it. Credentials are therefore refused there, and no message repeats one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

_SECRET_NAME = (
    r".*(secret|token|password|passwd|pwd|passphrase|apikey|accesskey|accesskeyid|secretkey|signature|credentials?"
    r"|authorization|(auth|private|subscription|shared|account|signing|encryption)key|jwt|hmac|sas|session(id)?)"
    r"|auth|bearer"
)
SECRET_QUERY_KEY = re.compile(_SECRET_NAME)
"""Query keys of an address that carry a credential: presigned urls (S3, GCS), bearer tokens. As in all
patterns here, names are in lower case and without punctuation."""
SECRET_OPTION = re.compile(rf"{_SECRET_NAME}|.*(?<!kms)key|.*cookies?|.*connectionstring|username|pass")
"""Storage options, HTTP headers included, through which fsspec's filesystems and their clients take
credentials. A KMS key id is a name, not a credential."""
AZURE_SIGNATURES = ({"sig", "sv"}, {"sig", "se"})
"""Query keys that together make an Azure SAS signature; `sig` by itself can mean anything."""
NOT_SECRET = (None, "", True, False, "anon", "cloud", "google_default", "cache")
"""Values of such keys that only say where to find a credential (gcsfs's `token`)."""
CONTAINER_SCHEMES = ("abfs", "abfss", "git", "github", "hf", "wasb", "wasbs")
"""Schemes where the part before the @ is a container or a repository, not a user."""

TOKEN_FORMS = {
    "a Hugging Face token": r"hf_[A-Za-z0-9]{20,}",
    "a GitHub token": r"gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}",
    "a GitLab token": r"glpat-[A-Za-z0-9_-]{16,}",
    "an access key of AWS": r"(?:AKIA|ASIA)[A-Z0-9]{16}",
    "a Google API key": r"AIza[A-Za-z0-9_-]{30,}",
    "a JSON web token": r"eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}",
}
"""Credentials that are known by their form wherever they stand, for example in `hf://TOKEN@org/name`."""
_TOKENS = {
    what: re.compile(rf"(?<![A-Za-z0-9])(?:{form})(?![A-Za-z0-9])") for what, form in TOKEN_FORMS.items()
}

# The colon of a port, an ARN or an IPv6 address does not start a password. A secret key of AWS may contain
# slashes.
_USER = re.compile(r"(?:^|::)\s*([\w+.-]+)://(?:[^/?#\s@]*@|(?!arn:|\[)[^/@\s:]+:(?!\d*[/?#])[^@\s]*@)")
_QUERY = re.compile(r"[?&;#]([^=&;#?\s]+)=([^&;#\s]*)")

ADVICE = (
    "configs and addresses are stored in plain text, so set it in the environment (AWS_ACCESS_KEY_ID, "
    "AWS_SECRET_ACCESS_KEY, ...) or in a profile, and name the profile here (profile: ...)"
)


def find_credentials(data: Any, path: str = "") -> Iterator[str]:
    """One line for every credential in a config's data.

    Storage options are recognized by name, addresses and well-known tokens by their form.

    Args:
        data: a config, a section or a value.
        path: dotted path of `data`; the lines start with it.
    """
    if isinstance(data, dict):
        for name, value in data.items():
            inside = f"{path}.{name}" if path else str(name)
            is_secret = "storage_options" in path and SECRET_OPTION.fullmatch(_normalize(str(name)))
            if is_secret and value not in NOT_SECRET:
                yield f"{inside}: this is a credential; {ADVICE}"
            else:
                yield from find_credentials(value, inside)
    elif isinstance(data, (list, tuple)):
        if "storage_options" in path and len(data) == 2 and _is_secret_header(*data):
            yield f"{path}: this is a credential; {ADVICE}"
            return
        for number, value in enumerate(data):
            yield from find_credentials(value, f"{path}.{number}")
    elif isinstance(data, str):
        if "storage_options" in path and _is_secret_header(*(data.partition(":")[::2])):
            yield f"{path}: this is a credential; {ADVICE}"
        elif (what := _credential_in_address(data)) is not None:
            yield f"{path}: this address contains {what}, which is a credential: remove it; {ADVICE}"
        elif (what := next((what for what, form in _TOKENS.items() if form.search(data)), None)) is not None:
            yield f"{path}: this value contains {what}, which is a credential: remove it; {ADVICE}"


def _is_secret_header(name: Any, value: Any) -> bool:
    """Whether a name and a value, as lists of headers have them, are a credential."""
    return (
        isinstance(name, str)
        and bool(SECRET_OPTION.fullmatch(_normalize(name)))
        and isinstance(value, str)
        and value.strip() not in NOT_SECRET
    )


def _credential_in_address(text: str) -> str | None:
    """What in an address is a credential, without its value; None if nothing is, or if `text` is no
    address."""
    if "://" not in text:
        return None
    if any(found[1].lower() not in CONTAINER_SCHEMES for found in _USER.finditer(text)):
        return "a user or password before the @"
    query = {unquote(name): value for name, value in _QUERY.findall(text)}
    for name, value in query.items():
        if SECRET_QUERY_KEY.fullmatch(_normalize(name)) and value not in NOT_SECRET:
            return name
    if any(keys <= set(query) for keys in AZURE_SIGNATURES):
        return "sig"
    return None


def _normalize(name: str) -> str:
    """Name for comparison: X-Api-Key, x_api_key and xApiKey are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
