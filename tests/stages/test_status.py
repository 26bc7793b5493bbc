"""The closed list of statuses, the classification of HTTP codes, and the length of messages."""

import pytest

from capfilt.stages.status import STATUSES, Failure, classify_http_code, one_line, quote

CODES = {
    "http_403": (401, 402, 403),
    "http_404": (404, 410),
    "http_429": (429,),
    "http_4xx": (400, 405, 408, 428, 430, 499),
    "http_5xx": (500, 599),
    "http_invalid": (199, 399, 600),
}


@pytest.mark.parametrize("status", CODES)
def test_http_codes(status: str) -> None:
    assert {classify_http_code(code) for code in CODES[status]} == {status}


def test_retryable_statuses() -> None:
    retryable = {name for name, status in STATUSES.items() if status.retryable}
    assert retryable == {"dns", "connect", "timeout", "http_429", "http_5xx", "rate", "internal"}


def test_failures_have_a_status_of_the_list() -> None:
    for status in ("made_up", "success", "pending"):
        with pytest.raises(AssertionError):
            Failure(status, "")
    assert Failure("dns", "").retryable and not Failure("dns", "", final=True).retryable
    assert not Failure("decode", "").retryable


def test_messages_are_one_short_line() -> None:
    assert Failure("decode", "a\x00b\n" * 1000).message == "a b " * 74 + "a..."
    assert one_line(" a\r\n\tb\u2028c ") == "a b c"
    assert one_line("x" * 300) == "x" * 300
    assert one_line("x" * 301) == "x" * 297 + "..."


def test_quotes_are_short() -> None:
    assert quote("a\n") == "'a\\n'"
    assert quote("x" * 80) == f"'{'x' * 80}'" == quote("x" * 81)
