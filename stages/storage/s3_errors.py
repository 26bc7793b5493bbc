"""What a store's errors say: that it is away or refuses whoever asks, or that one file cannot be had."""

from __future__ import annotations

NO_SUCH_BUCKET = "NoSuchBucket"
"""S3's code for a bucket that is away; s3fs makes it an absent file."""
DENIED = "AccessDenied"
REFUSALS = frozenset(
    {
        NO_SUCH_BUCKET, DENIED, "AccountProblem", "AllAccessDisabled", "AuthorizationHeaderMalformed", "CredentialsNotSupported",
        "ExpiredToken", "InvalidAccessKeyId", "InvalidBucketName", "InvalidPayer", "InvalidSecurity", "InvalidToken",
        "MissingSecurityHeader", "NotSignedUp", "PermanentRedirect", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)  # fmt: skip
"""S3's codes that are about the bucket or about who asks, and about no file."""
BODYLESS_CODES = frozenset({"400", "401", "403"})
"""Codes of answers to HEAD, which have no body and so no reason: no credentials that hold, no right to this file, or
no such file in a bucket that may not be listed."""
TRANSIENT_CLIENT_ERRORS = frozenset(
    {
        "ChecksumError", "ConnectionClosedError", "FlexibleChecksumError", "HTTPClientError", "IncompleteReadError",
        "ParamValidationError", "ReadTimeoutError", "ResponseStreamingError",
    }
)  # fmt: skip
"""botocore's errors that another file might not meet; its others tell of no credentials, no such profile, no
connection."""


def code_of(error: BaseException) -> str | None:
    """The store's own code of an error that s3fs has translated, e.g. "NoSuchBucket"."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether an error is about the store as a whole: the same request for any other file would end like this."""
    return code_of(error) in REFUSALS or (
        is_botocore_error(error) and type(error).__name__ not in TRANSIENT_CLIENT_ERRORS
    )


def is_botocore_error(error: BaseException) -> bool:
    """Whether an error is botocore's own: there was no answer, or not all of one."""
    return type(error).__module__ == "botocore.exceptions"


def reason(error: BaseException) -> str:
    """An error in one line, with the store's own code where there is one."""
    text = " ".join(str(error).split())
    kind = code_of(error) or type(error).__name__
    return f"{kind}: {text}" if text else kind
