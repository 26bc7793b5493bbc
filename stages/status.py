"""The closed list of row statuses, each with whether a retry can help.

`success` is spelled as img2dataset writes it. A row starts as `pending`; fetching sets exactly one of the
other statuses. `capfilt retry --class` takes these names.
"""

from __future__ import annotations

from dataclasses import dataclass

PENDING = "pending"
SUCCESS = "success"
INTERNAL = "internal"
CRASHED = "crashed"
BAD_TAR = "bad_tar"
HASH_MISMATCH = "hash_mismatch"

MAX_QUOTE_CHARS = 80
"""Length to which a text of the user or a server is cut inside an error message."""
MAX_MESSAGE_CHARS = 300
"""Length to which a stored error message is cut; messages of servers and libraries can be much longer."""


@dataclass(frozen=True)
class Status:
    """One possible status of a row."""

    name: str
    retryable: bool
    """Whether the cause may be temporary. The fetch stage retries such a url until its deadline, and a later
    run may retry it too. Any other failure is permanent until the row, the server or the config changes."""
    meaning: str


STATUSES: dict[str, Status] = {
    status.name: status
    for status in (
        Status(SUCCESS, False, "The image was downloaded, decoded and stored."),
        Status("dns", True, "The host name could not be resolved."),
        Status(
            "connect",
            True,
            "The connection was refused, reset, or closed before the last byte; or the store of an image "
            "folder refused this file without a reason.",
        ),
        Status(
            "timeout",
            True,
            "The deadline of the url passed, or the host did not accept the connection in time.",
        ),
        Status(
            "http_429", True, "Too many requests (429), and Retry-After exceeds the time left for the url."
        ),
        Status("http_5xx", True, "Server error (500-599)."),
        Status(
            "rate",
            True,
            "The wait that the host's Crawl-delay requires exceeds the limit; no request was sent.",
        ),
        Status(INTERNAL, True, "Unexpected exception; the error message has its type and text."),
        Status(
            CRASHED,
            False,
            "The worker process exited, hung or used too much memory on this row, in every attempt.",
        ),
        Status("tls", False, "TLS failed: the certificate is expired, self-signed or for another host."),
        Status("http_403", False, "Access denied (401, 402 or 403)."),
        Status("http_404", False, "Not found or gone (404 or 410)."),
        Status("http_4xx", False, "Another client error (400-499)."),
        Status(
            "http_invalid", False, "The response is not valid HTTP: malformed, or its headers are too long."
        ),
        Status(
            "redirect",
            False,
            "Too many redirects, a redirect loop, a redirect without a target, or one that leaves http(s).",
        ),
        Status(
            "private_address", False, "The host is in private address space; no request was sent to the host."
        ),
        Status("robots", False, "The host's robots.txt disallows the url; no request was sent."),
        Status("optout", False, "The site opts out (column `optout_signal`); the body was not read."),
        Status(
            "blocked", False, "The url, its host or the sha256 of the image is on a block list of the config."
        ),
        Status(
            "bad_url",
            False,
            "No url, a malformed url, a scheme other than http(s), or a path outside the image folder.",
        ),
        Status(
            "missing_file",
            False,
            "The image folder has no such file, or it is a pipe, device or folder; or the tar's sample has "
            "no image.",
        ),
        Status(
            BAD_TAR,
            False,
            "An image tar is damaged, truncated or empty, one row with its address for all lost samples; or "
            "a member of a sample is sparse.",
        ),
        Status(
            HASH_MISMATCH,
            False,
            "The bytes are another image than promised: their sha256 or md5 is not that of the hash column.",
        ),
        Status("too_big", False, "The body exceeds the byte limit."),
        Status("empty_body", False, "The response or file has no bytes."),
        Status("not_image", False, "Not an image in a supported format (a web page, SVG, text ...)."),
        Status(
            "decode",
            False,
            "An image in a supported format is damaged or truncated, or takes too long to decode.",
        ),
        Status("too_small", False, "The shorter side is below the configured minimum."),
        Status(
            "too_many_pixels", False, "Width times height, read from the header, exceeds the pixel limit."
        ),
        Status("aspect", False, "The aspect ratio (longer side / shorter side) exceeds the limit."),
    )
}


class Failure(Exception):
    """Fails one row with a status; the stage stores it as `status` and `error_message`.

    Args:
        status: a name in `STATUSES` other than `success`.
        message: one line for the reader of the Parquet file.
        retry_after: seconds of the server's Retry-After header, None if it sent none.
        final: an immediate retry cannot help, although a later run may succeed.
    """

    def __init__(
        self, status: str, message: str, *, retry_after: float | None = None, final: bool = False
    ) -> None:
        assert status in STATUSES and status != SUCCESS, f"{status!r} is not in the closed list of failures"
        super().__init__(message)
        self.status, self.retry_after, self.final = status, retry_after, final
        self.message = one_line(message)

    @property
    def retryable(self) -> bool:
        return STATUSES[self.status].retryable and not self.final


class Unreachable(Failure):
    """The host could not be resolved or connected to, closed the connection without a response, or its
    response was not complete before the deadline.

    `stages.fetch.http.hosts` counts these failures to find dead hosts.
    """


def classify_http_code(code: int) -> str:
    """Status of a response whose HTTP code is neither a success nor a redirect."""
    if code in (401, 402, 403):
        return "http_403"
    if code in (404, 410):
        return "http_404"
    if code == 429:
        return "http_429"
    if 400 <= code < 500:
        return "http_4xx"
    return "http_5xx" if 500 <= code < 600 else "http_invalid"


def one_line(text: str) -> str:
    """`text` without line breaks and control characters, cut to `MAX_MESSAGE_CHARS`."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    return line if len(line) <= MAX_MESSAGE_CHARS else line[: MAX_MESSAGE_CHARS - 3] + "..."


def quote(text: str) -> str:
    """The start of `text` in quotes, for error messages."""
    return repr(text[:MAX_QUOTE_CHARS])
