"""What can become of a row: one closed list, each status with whether asking again can help.

`success` is spelled as img2dataset writes it. A row starts as `pending`; fetching ends it with one of the others
and never with two. `capfilt retry --class` takes these names.
"""

from __future__ import annotations

from dataclasses import dataclass

PENDING = "pending"
SUCCESS = "success"
INTERNAL = "internal"
CRASHED = "crashed"
BAD_TAR = "bad_tar"

MESSAGE_LIMIT = 300
"""Characters of an error message that are stored; servers and libraries can say much more."""


@dataclass(frozen=True)
class Status:
    """One way in which a row can end."""

    name: str
    retryable: bool
    """The cause may pass by itself: the fetch stage tries again while the url's deadline lasts, and a later
    run may too. What is False stays so until the row, the server's mind or the config changes."""
    meaning: str


STATUSES: dict[str, Status] = {
    status.name: status
    for status in (
        Status(SUCCESS, False, "The picture is there, decoded and stored."),
        Status("dns", True, "The host's name could not be resolved."),
        Status(
            "connect",
            True,
            "The connection was refused, reset, or broken off before the last byte; or the store of an image folder "
            "refused this file without a reason.",
        ),
        Status("timeout", True, "The deadline of the url passed, or the host did not accept in time."),
        Status(
            "http_429", True, "Too many requests (429), and the wait the host asked for exceeds the deadline."
        ),
        Status("http_5xx", True, "The server failed (500-599)."),
        Status(
            "rate", True, "The host's Crawl-delay would have kept the url waiting too long; it was not asked."
        ),
        Status(INTERNAL, True, "An exception nobody foresaw; its text is the error message."),
        Status(
            CRASHED, False, "The process that worked on it died, hung or took too much memory, each time."
        ),
        Status("tls", False, "The secure connection failed: expired, self-signed or foreign certificate."),
        Status("http_403", False, "Forbidden (401, 402 or 403)."),
        Status("http_404", False, "Gone (404 or 410)."),
        Status("http_4xx", False, "Another refusal of the request (400-499)."),
        Status(
            "http_invalid", False, "The answer is not HTTP as it should be: headers too long or malformed."
        ),
        Status("redirect", False, "Too many redirects, a loop, one without a target, or one out of http(s)."),
        Status("private_address", False, "The host lies in private address space; no request was sent."),
        Status("robots", False, "The host's robots.txt disallows the url; it was not asked for."),
        Status("optout", False, "The answer's X-Robots-Tag forbids the use; its body was not read."),
        Status(
            "blocked",
            False,
            "The url, its host or the picture's sha256 stands on a block list of the config.",
        ),
        Status(
            "bad_url", False, "No url, no http(s) url, a malformed one, or a path out of the image folder."
        ),
        Status("missing_file", False, "No such file in the image folder, or no image in the tar's sample."),
        Status(
            BAD_TAR,
            False,
            "An image tar is damaged, cut off or empty; one row, with the tar's address, for all that is lost.",
        ),
        Status("too_big", False, "The body exceeds the byte cap."),
        Status("empty_body", False, "The answer or file has no bytes."),
        Status("not_image", False, "The bytes are no picture of a known format (a web page, SVG, text ...)."),
        Status("decode", False, "A picture of a known format that is damaged or truncated."),
        Status("too_small", False, "The shorter side is below the configured minimum."),
        Status("too_many_pixels", False, "Width times height, read from the header, exceeds the pixel cap."),
        Status("aspect", False, "The longer side is too many times the shorter one."),
    )
}


class Failure(Exception):
    """Ends one row with a status; the stage turns it into `status` and `error_message`.

    Args:
        status: a name in `STATUSES` other than `success`.
        message: one line for the person who reads the Parquet.
        retry_after: seconds the server asked us to wait, where it did.
        final: asking again at once cannot help, though a later run may.
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
    """The host did not answer, or not in time: its name, its port or the whole of its answer. See `stages.fetch.http.hosts`."""


def http_status(code: int) -> str:
    """Status of an answer whose HTTP code is no success and no redirect."""
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
    """`text` without line breaks and control characters, cut to `MESSAGE_LIMIT`: fit for a table cell."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(printable.split())
    return line if len(line) <= MESSAGE_LIMIT else line[: MESSAGE_LIMIT - 3] + "..."
