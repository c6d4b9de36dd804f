"""Objects of buckets: the one place that knows boto3. Makes its clients, and says what their errors mean.

Credentials, region and endpoint come from where every tool of AWS takes them: the environment (`AWS_ENDPOINT_URL` for
stores other than AWS's), the shared files, the machine's role. boto3 is imported when the first client is made, since
most commands need none. Imports nothing that only a worker has: the scheduler uses it too.
"""

import os
import time
from collections.abc import Generator
from contextlib import closing
from functools import cache
from typing import Any

from db.errors import (
    AccessDenied,
    BadOption,
    BucketMissing,
    ChangedWhileReading,
    CredentialsRejected,
    MoodreelError,
    NotReadable,
    ObjectArchived,
    PathMissing,
    SourceSlowDown,
    SourceUnreachable,
)
from db.identity import ObjectName, Source

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 10.0  # after which a connection, or silence on one, counts as failed
MAX_ATTEMPTS = 5  # of one request, with botocore's standard back-off in between
MAX_CONNECTIONS = 64  # that a process keeps open to one service
CHUNK_BYTES = 1 << 18  # of a body, that are taken from it at once
MAX_BREAKS = 6  # of one range's body, before it is given up
BREAK_SECONDS = 0.1  # before the rest is asked for; doubled for each further break

# What S3, and stores that speak as it does, call what is wrong with credentials.
_CREDENTIALS = {
    *("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"),
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "UnrecognizedClientException"),
    *("RequestTimeTooSkewed", "MissingSecurityHeader", "NotSignedUp"),
}
_SLOW_DOWN = {"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequests", "503", "429"}
_NO_QUEUE = {"QueueDoesNotExist", "AWS.SimpleQueueService.NonExistentQueue", "InvalidAddress"}
_LOOK_AT_STORE = "Check the bucket's name, the endpoint (AWS_ENDPOINT_URL) and the network."
_ALLOW = (
    "Allow s3:ListBucket on the bucket, s3:GetObject on the object, and kms:Decrypt where a key of yours encrypts it; "
    "for a bucket whose reader pays, set MOODREEL_S3_REQUEST_PAYER=requester. Without s3:ListBucket, an object that is "
    "gone is denied too."
)


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


def described(name: ObjectName) -> Source:
    """An object as it is now; see `head` for the errors."""
    answer = head(name)
    return Source.of_object(name, answer["ETag"], answer["ContentLength"], answer["LastModified"].timestamp())


def head(name: ObjectName) -> dict[str, Any]:
    """What the store says of an object as it is now, as botocore gives it.

    Raises:
        PathMissing, NotReadable, ObjectArchived: it is not there, or may not be looked at.
        SourceUnreachable: the store does not answer, or not us.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    place = {"Bucket": name.bucket, "Key": name.key, **payer()}
    try:
        try:
            return dict(client("s3").head_object(**place))
        except ClientError as error:
            if _code(error) != "404":  # the answer to a HEAD has no body that would say why
                client("s3").get_object(**place, Range="bytes=0-0")["Body"].close()
            raise
    except (BotoCoreError, ClientError) as error:
        raise as_failure(error, name.uri) from error


def chunks(source: Source, offset: int, length: int) -> Generator[bytes, None, None]:
    """A range of one version of an object, as it arrives. A body that breaks off is continued.

    Raises:
        ChangedWhileReading: the object is another version by now.
        PathMissing, NotReadable, ObjectArchived, SourceUnreachable: it cannot be read (on).
    """
    from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError

    end, breaks = offset + length, 0
    while offset < end:
        try:
            body = _body(source, offset, end)
        except (BotoCoreError, ClientError) as error:
            raise as_failure(error, source.uri) from error
        cause: Exception | None = None
        try:
            with closing(body):
                while offset < end and (chunk := body.read(min(CHUNK_BYTES, end - offset))):
                    offset += len(chunk)
                    yield chunk
        except (HTTPClientError, IncompleteReadError, OSError) as error:
            cause = error
        if offset < end:
            breaks += 1
            if breaks > MAX_BREAKS:
                raise SourceUnreachable(f"{_store(source.uri)}: answers break off: {cause}", _LOOK_AT_STORE) from cause
            time.sleep(BREAK_SECONDS * 2.0 ** (breaks - 1))


def _body(source: Source, offset: int, end: int) -> Any:
    name = ObjectName.of(source.uri)
    assert name is not None
    place = {"Bucket": name.bucket, "Key": name.key, **payer()}
    range_ = f"bytes={offset}-{end - 1}"
    answer = client("s3").get_object(**place, Range=range_, IfMatch=f'"{source.version}"')
    if answer["ETag"].strip('"') != source.version:  # from a store that does not know If-Match
        answer["Body"].close()
        raise ChangedWhileReading(f"{source.uri}: the object was replaced while it was being read")
    if not answer.get("ContentRange", "").startswith(f"bytes {offset}-"):
        answer["Body"].close()
        raise NotReadable(f"{source.uri}: the store does not serve parts of objects")
    return answer["Body"]


def as_failure(error: Exception, uri: str) -> MoodreelError:
    """What an error of botocore means.

    Args:
        error: a BotoCoreError or a ClientError.
        uri: of the object, bucket or queue that was asked for.
    """
    from botocore import exceptions as boto

    no_credentials = (
        *(boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError),
        *(boto.TokenRetrievalError, boto.SSOError, boto.ProfileNotFound),
    )
    if isinstance(error, no_credentials):
        return _without_credentials(f"{_store(uri)}: {error}")
    if isinstance(error, boto.ParamValidationError):
        return NotReadable(f"{uri} is not the name of an object or bucket: {' '.join(str(error).split())}")
    if not isinstance(error, boto.ClientError):
        return SourceUnreachable(f"{_store(uri)}: {error}", _LOOK_AT_STORE)
    return _refused(_code(error), error, uri)


def _refused(code: str, error: Any, uri: str) -> MoodreelError:
    said = f"{code}: {error.response.get('Error', {}).get('Message', '')}".rstrip(": ")
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _CREDENTIALS:
        return _without_credentials(f"{_store(uri)}: the store does not accept the credentials ({said})")
    if code == "NoSuchBucket":
        return BucketMissing(f"{_store(uri)}: there is no such bucket")
    if code in _NO_QUEUE:
        return BadOption(f"{uri}: there is no such queue")
    if code in _SLOW_DOWN or status in (429, 503):
        return SourceSlowDown(f"{_store(uri)}: the store asks for fewer requests ({said})")
    if status >= 500:
        return SourceUnreachable(f"{_store(uri)}: the store fails ({said})")
    if status == 412:
        return ChangedWhileReading(f"{uri}: the object was replaced while it was being read")
    if status == 404:
        return PathMissing(f"{uri}: the object is gone")
    if code == "InvalidObjectState":
        return ObjectArchived(f"{uri}: {said}")
    if status == 403:
        return AccessDenied(f"{uri}: the store refuses it ({said})", _ALLOW)
    return NotReadable(f"{uri}: the store refuses it ({said})")


def _without_credentials(message: str) -> CredentialsRejected:
    """Forget the clients too, so that the next one looks for credentials anew."""
    client.cache_clear()
    return CredentialsRejected(message)


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _store(uri: str) -> str:
    """The bucket of an object, since a worker names each place that it cannot reach once."""
    name = ObjectName.of(uri)
    return uri if name is None else f"s3://{name.bucket}"
