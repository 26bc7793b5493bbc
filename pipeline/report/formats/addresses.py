"""Addresses of images: their hosts, and the form in which the page shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from capfilt.pipeline.config.credentials import find_credentials
from capfilt.pipeline.report.formats.values import to_printable
from capfilt.stages.fetch.urls.parse import INVISIBLE, strip_invisible

HOST = rf"^[\s{INVISIBLE}]*(?i:https?)://(?:[^/?#\\]*@)?(\[[^\]/?#]*\]|[^/:?#@\\]+)"
"""Pattern for DuckDB and Python; its group is the host of a web address, without user name and port. A
backslash ends the host, as in browsers."""
MAX_LINK_LENGTH = 2000
"""Characters of the longest address that becomes a link."""


@dataclass(frozen=True)
class ShownAddress:
    """The address of an image as the page shows it."""

    text: str
    """The address; without user name, path and query if one of them holds a credential."""
    host: str
    """"" for an address that is not http or https."""
    is_link: bool
    """Whether the text can be followed as it is."""


def show_address(url: str | None) -> ShownAddress | None:
    """The form in which an address is shown; None without an address.

    Only web addresses that contain no credential and no invisible character become links.
    """
    text = strip_invisible(url or "")
    if not text:
        return None
    found = re.match(HOST, text)
    host = found[1].lower() if found else ""
    if next(find_credentials(text), None) is not None:
        scheme = text.partition("://")[0]
        return ShownAddress(f"{scheme}://{host}/…" if host else f"{scheme}://…", host, is_link=False)
    is_clean = len(text) <= MAX_LINK_LENGTH and to_printable(text, MAX_LINK_LENGTH) == text
    return ShownAddress(text, host, is_link=bool(host) and is_clean and not re.search(r"\s", text))
