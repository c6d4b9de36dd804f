"""The one place that knows boto3: clients for buckets and queues, and what their errors mean.

Credentials, region and endpoint come from where every tool of AWS takes them: the environment (`AWS_ENDPOINT_URL` for
stores other than AWS's), the shared files, the machine's role. boto3 is imported when the first client is made, since
most commands need none. Imports nothing that only a worker has: the scheduler uses it too.
"""

import os
from functools import cache
from typing import Any

from db.errors import (
    AccessDenied,
    BadOption,
    BucketMissing,
    CredentialsRejected,
    MoodreelError,
    NotReadable,
    ObjectArchived,
    PathMissing,
    SourceUnreachable,
)
from db.identity import printable

CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 20.0  # after which a connection, or silence on one, counts as failed
MAX_ATTEMPTS = 5  # of one request, with botocore's standard back-off in between
MAX_CONNECTIONS = 64  # that a process keeps open to one service

# What stores and queues call their refusals; the answer to a HEAD has no body, so its status must do.
_MEANINGS: dict[str, type[MoodreelError]] = {
    **dict.fromkeys(("NoSuchBucket", "ParamValidationError"), BucketMissing),
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion", "404"), PathMissing),
    **dict.fromkeys(("AccessDenied", "AccessDeniedException", "AllAccessDisabled", "403"), AccessDenied),
    "InvalidObjectState": ObjectArchived,
    **dict.fromkeys(
        (
            *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError"),
            *("TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError"),
            *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"),
            *("InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"),
            *("InvalidClientTokenId", "UnrecognizedClientException", "400", "401"),
        ),
        CredentialsRejected,
    ),
    **dict.fromkeys(("NoRegionError", "ProfileNotFound", "InvalidEndpointConfigurationError"), BadOption),
    **dict.fromkeys(("QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "InvalidAddress"), BadOption),
    **dict.fromkeys(("EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError"), SourceUnreachable),
    **dict.fromkeys(("ConnectionClosedError", "ProxyConnectionError", "SSLError"), SourceUnreachable),
    **dict.fromkeys(("HTTPClientError", "IncompleteReadError", "ResponseStreamingError"), SourceUnreachable),
    **dict.fromkeys(("SlowDown", "Throttling", "ThrottlingException", "RequestThrottled"), SourceUnreachable),
    **dict.fromkeys(("InternalError", "ServiceUnavailable", "RequestTimeout"), SourceUnreachable),
    **dict.fromkeys(("500", "502", "503", "504"), SourceUnreachable),
}
_UNREACHABLE = "Check the network and AWS_ENDPOINT_URL; what is in the database stays, and it is tried again."


@cache
def client(service: str) -> Any:
    """A client of botocore, which threads may share; made once for each service.

    Args:
        service: `s3` or `sqs`.

    Raises:
        botocore.exceptions.BotoCoreError: the settings are wrong, or a region is missing where one is needed.
    """
    from boto3.session import Session
    from botocore.config import Config

    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=ANSWER_SECONDS,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
        response_checksum_validation="when_required",  # stores other than AWS's may not know them
        tcp_keepalive=True,
    )
    return Session().client(service, config=config)


def payer() -> dict[str, str]:
    """What requests to S3 say of who pays: `MOODREEL_S3_REQUEST_PAYER=requester` where the bucket asks for that."""
    named = os.environ.get("MOODREEL_S3_REQUEST_PAYER")
    return {"RequestPayer": named} if named else {}


def refused(what: str, error: Exception) -> MoodreelError:
    """What an error of botocore means, as one of ours.

    Args:
        what: was asked for: the URI of an object or a bucket, or that of a queue.
        error: a `ClientError` or `BotoCoreError` of botocore.
    """
    answer = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", "") or type(error).__name__)
    said = " ".join(str(answer.get("Error", {}).get("Message", "") or error).split()).rstrip(".")
    kind = _MEANINGS.get(code, NotReadable)
    return kind(f"{printable(what)}: {printable(said)} ({code})", _UNREACHABLE if kind is SourceUnreachable else "")
