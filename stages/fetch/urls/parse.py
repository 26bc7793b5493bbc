"""Urls as browsers read them (WHATWG URL), with ada.

What is legal is sent as written: `%2C`, `%7E` and `%2F` keep their escapes, because a signed url is signed in
its spelling. Only what is illegal is quoted (spaces, quotation marks, non-ASCII characters).
"""

from __future__ import annotations

import re

import ada_url
from yarl import URL

from capfilt.stages.status import Failure, quote

MAX_URL_CHARS = 8_000
"""Servers accept no longer urls; longer texts are captions that ended up in the url column."""
INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060\u00ad"
"""Characters without a width that copied urls start or end with: byte order mark, zero-width characters."""

_NO_HOST = re.compile(r"https?:[/\\]{3}", re.IGNORECASE)  # ada would take the path's first part for the host


def strip_invisible(text: str) -> str:
    """`text` without spaces and invisible characters at its ends."""
    before = None
    while text != before:
        before, text = text, text.strip().strip(INVISIBLE)
    return text


def parse_http_url(url: str, base: str | None = None) -> URL:
    """Parse an http or https url; the fragment is dropped.

    Args:
        url: absolute, or relative to `base`.
        base: absolute http(s) url.

    Returns:
        A yarl URL that keeps the spelling: its `raw_path_qs` is the request target that a browser sends.

    Raises:
        Failure: bad_url.
    """
    if len(url) > MAX_URL_CHARS:
        raise Failure(
            "bad_url", f"the url has {len(url)} characters, the limit is {MAX_URL_CHARS}: {quote(url)}"
        )
    try:
        parsed = ada_url.URL(url, base=base)
    except ValueError as error:
        if base is None and not re.match(r"https?:", url, re.IGNORECASE):
            raise _not_http(url) from error
        raise Failure("bad_url", f"malformed url {quote(url)}") from error
    has_host = bool(parsed.hostname) and not _NO_HOST.match(url)
    if parsed.protocol not in ("http:", "https:") or not has_host or parsed.port == "0":
        raise _not_http(url)
    spelled = URL(parsed.href.partition("#")[0], encoded=True)
    if parsed.href.partition("#")[0].endswith("?") and not parsed.search:
        # yarl drops the question mark of an empty query, which a browser sends.
        return spelled.with_path(spelled.raw_path + "?", encoded=True)
    return spelled


def parse_location(location: str, base: URL) -> URL:
    """The target of a redirect from `base`, as browsers read a Location header.

    Bytes that are not ASCII are escaped one by one: they need not be UTF-8.

    Args:
        location: as aiohttp decodes it, with surrogate escapes for bytes that are not UTF-8.

    Raises:
        Failure: bad_url.
    """
    octets = location.encode("utf-8", "surrogateescape")
    text = "".join(chr(octet) if octet < 0x80 else f"%{octet:02X}" for octet in octets)
    return parse_http_url(strip_invisible(text), str(base))


def _not_http(url: str) -> Failure:
    scheme = re.match(r"([a-zA-Z][a-zA-Z0-9+.-]*):", url)
    found = f"; its scheme is {scheme[1][:20]}" if scheme and scheme[1].lower()[:4] != "http" else ""
    return Failure("bad_url", f"{quote(url)} is not an http(s) url with a host{found}")
