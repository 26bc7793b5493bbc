"""Errors of S3 by what they concern: the whole store, or one object."""

import botocore.exceptions
import pytest

from capfilt.stages.storage.s3_errors import code_of, describe_error, is_botocore_error, is_refusal


def translated(code, message="An error"):
    """An error as s3fs raises it: an OSError caused by botocore's."""
    cause = botocore.exceptions.ClientError({"Error": {"Code": code, "Message": message}}, "GetObject")
    error = PermissionError(message)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("code", ["NoSuchBucket", "AccessDenied", "ExpiredToken", "SignatureDoesNotMatch"])
def test_codes_of_bucket_and_credentials_concern_the_store(code):
    assert is_refusal(translated(code)) and code_of(translated(code)) == code
    assert not is_botocore_error(translated(code))


@pytest.mark.parametrize("code", ["NoSuchKey", "SlowDown", "403", "InternalError"])
def test_other_codes_concern_one_object(code):
    assert not is_refusal(translated(code))


def test_errors_without_response_concern_the_store_unless_they_are_transient():
    refusals = [
        botocore.exceptions.NoCredentialsError(),
        botocore.exceptions.ProfileNotFound(profile="x"),
        botocore.exceptions.EndpointConnectionError(endpoint_url="http://s3"),
    ]
    transient = [
        botocore.exceptions.ReadTimeoutError(endpoint_url="http://s3"),
        botocore.exceptions.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    ]
    assert [is_refusal(error) for error in refusals] == [True] * 3
    assert [is_refusal(error) for error in transient] == [False] * 2
    assert all(is_botocore_error(error) for error in refusals + transient)
    assert not is_refusal(OSError("disk")) and code_of(OSError("disk")) is None


def test_descriptions_are_one_line_with_the_code():
    assert describe_error(translated("SlowDown", "two\n lines")) == "SlowDown: two lines"
    assert describe_error(ValueError("x")) == "ValueError: x"
    assert describe_error(TimeoutError()) == "TimeoutError"
