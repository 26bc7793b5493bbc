"""Classifies errors of object stores: those of the whole store, and those of one object."""

from __future__ import annotations

NO_SUCH_BUCKET = "NoSuchBucket"
"""S3's code for an absent bucket; s3fs translates it to FileNotFoundError, as for an absent object."""
DENIED = "AccessDenied"
PRECONDITION_FAILED = ("PreconditionFailed", "412")
"""S3's codes for a conditional write of an object that exists."""
CONDITIONAL_CONFLICT = "ConditionalRequestConflict"
"""S3's code for simultaneous conditional writes; the request must be sent again."""
INVALID_RANGE = "InvalidRange"
REFUSALS = frozenset(
    {
        NO_SUCH_BUCKET, DENIED, "AccountProblem", "AllAccessDisabled", "AuthorizationHeaderMalformed",
        "CredentialsNotSupported", "ExpiredToken", "InvalidAccessKeyId", "InvalidBucketName", "InvalidPayer",
        "InvalidSecurity", "InvalidToken", "MissingSecurityHeader", "NotSignedUp", "PermanentRedirect",
        "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired",
    }
)  # fmt: skip
"""S3's codes that concern the bucket or the credentials, not the requested object."""
BODYLESS_CODES = frozenset({"400", "401", "403"})
"""Codes of responses to HEAD requests, which have no body and so give no reason: invalid credentials, no
permission to read this object, or an absent object in a bucket that may not be listed."""
TRANSIENT_CLIENT_ERRORS = frozenset(
    {
        "ChecksumError", "ConnectionClosedError", "FlexibleChecksumError", "HTTPClientError",
        "IncompleteReadError", "ParamValidationError", "ReadTimeoutError", "ResponseStreamingError",
    }
)  # fmt: skip
"""botocore's errors that concern one request; its other errors (no credentials, unknown profile, no
connection) would end every request."""


def code_of(error: BaseException) -> str | None:
    """The store's own code of an error that s3fs has translated, for example "NoSuchBucket"."""
    for each in (error, error.__cause__):
        response = getattr(each, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
    return None


def is_refusal(error: BaseException) -> bool:
    """Whether an error concerns the whole store: the same request for any other object would fail too."""
    return code_of(error) in REFUSALS or (
        is_botocore_error(error) and type(error).__name__ not in TRANSIENT_CLIENT_ERRORS
    )


def is_botocore_error(error: BaseException) -> bool:
    """Whether botocore raised the error: there was no response, or an incomplete one."""
    return type(error).__module__ == "botocore.exceptions"


def describe_error(error: BaseException) -> str:
    """An error in one line, with the store's own code if there is one."""
    text = " ".join(str(error).split())
    kind = code_of(error) or type(error).__name__
    return f"{kind}: {text}" if text else kind
